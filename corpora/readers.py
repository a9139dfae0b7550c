"""The forms of ratings that can be read, and which recordings a folder holds in which of them.

    auto takes every recording in the form that it is in; a form that is named takes that one alone.
"""
from typing import NamedTuple

from corpora import affwild2, recola, tables
from support.errors import UserError
from support.recordings import natural_key


class Form(NamedTuple):
    """A form of ratings."""
    find: object  # folder -> {id: Source}; {} if there is none of this form; raises UserError
    files: str  # what it consists of, in words


FORMS = {
    "recola": Form(recola.find, "<id>.csv of arousal;valence, or arousal/<id>.csv and valence/<id>.csv"),
    "avec": Form(recola.find_arff, "arousal/<id>.arff and valence/<id>.arff"),
    "affwild2": Form(affwild2.find, "{Train_Set,Validation_Set}/<id>.txt of valence,arousal (or .csv)"),
    "table": Form(tables.find, "one .csv or .parquet of recording,time_s,arousal,valence"),
}
LEFTOVERS = ["settings.json", "thumbs.db", "desktop.ini", "@eadir", "__macosx"]  # of this project, of file managers


def find_ratings(folder, form="auto"):
    """{id: Source} of all rated recordings in a folder, in natural order.

    form: a key of FORMS; auto: all of them. Raises UserError if there are none, or if one is there in two forms.
    """
    found = {}
    for name in FORMS if form == "auto" else [form]:
        for recording, source in FORMS[name].find(folder).items():
            if recording in found:
                raise UserError(f"{found[recording].files[0]} ({found[recording].form}) and {source.files[0]} ({name}) "
                                f"are both ratings of {recording}: take one away, or name the form with --corpus")
            found[recording] = source
    if not found:
        wanted = "; or ".join(FORMS[name].files for name in ([form] if form != "auto" else FORMS))
        names = others_in(folder, ())
        other = "in none of the forms that can be read" if form == "auto" else f"not in the form {form}"
        there = f"what is there ({names}) is {other}" if names else "it is empty"
        raise UserError(f"no recordings in {folder}/: {there}. Put the gold standard there: {wanted}")
    return {name: found[name] for name in sorted(found, key=natural_key)}


def describe(folder, sources):
    """Lines for the user: what the folder was taken for, and what in it was left alone."""
    forms = [source.form for source in sources.values()]
    lines = [f"{folder}: {forms.count(form)} recordings in the form {form} ({FORMS[form].files})"
             for form in FORMS if form in forms]
    used = {path for source in sources.values() for file in source.files for path in (file, *file.parents)}
    if alone := others_in(folder, used):
        lines.append(f"{folder}: other files or folders are left alone: {alone}")
    return lines


def others_in(folder, used):
    """The names of what else is in a folder, in a few words, "" if there is nothing. used: paths that do not count."""
    alone = [path.name if path.name.isprintable() else ascii(path.name) for path in sorted(folder.glob("[!.]*"))
             if path not in used and path.name.lower() not in LEFTOVERS]
    return ", ".join(alone[:3]) + f" and {len(alone) - 3} more" * (len(alone) > 3)
