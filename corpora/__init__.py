"""The ratings of a corpus in its own form -> arousal and valence in time: one reader per form, in a table.

    readers    the table of forms, and which recordings a folder holds in which form
    recola     RECOLA and AVEC: csv per recording, csv or ARFF per dimension, individual raters
    affwild2   Aff-Wild2 (ABAW's valence-arousal track): txt per video
    tables     one CSV or Parquet file of recording,time_s,arousal,valence
    cells      files -> texts in rows and columns, every row with its line
    ratings    ratings -> frames: scale, time, number, delay
    features   features of other programs, in place of images or sound
    images     which image belongs to which frame
    copies     recordings that are one and the same under two names
    findings   what can be wrong with a recording, and what to do about it
    facts      what is there of a recording; check: the findings of all, printed and on a page
    loudness   the sound's levels in bands
    delay      how late annotators react

A new form is a function `find(folder) -> {id: Source}`, a line in readers.FORMS, and a test.
"""
