"""The table of forms: what a folder is taken for."""
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import TINY, run_of, table_of

from corpora.readers import FORMS, describe, find_ratings
from support.errors import UserError
from support.recordings import TARGETS

FILES = {  # of each form, by the path in ratings_gold_standard/
    "recola": ["train_10.csv", "train_2.txt"],
    "avec": ["arousal/dev_1.arff", "valence/dev_1.arff.gz"],
    "affwild2": ["VA_Set/Train_Set/video.txt", "VA_Set/Validation_Set/video_left.txt"],
    "table": ["all.csv"],
}
IDS = {"recola": ["train_2", "train_10"], "avec": ["dev_1"], "affwild2": ["video", "video_left"], "table": ["P1", "P2"]}
TABLE = "recording,time_s,arousal,valence\nP1,0,0,0\nP2,0,0,0\n"


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(TABLE if name == "all.csv" else "")
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_recognised_and_said(form, tmp_path):
    put(tmp_path, *FILES[form], "Thumbs.db", "desktop.ini", "@eaDir/a.csv", "settings.json", ".hidden.csv")
    for asked in ("auto", form):
        found = find_ratings(tmp_path, asked)
        assert list(found) == IDS[form] and {source.form for source in found.values()} == {form}
    lines = describe(tmp_path, found)
    assert len(lines) == 1 and f"{len(found)} recordings in the form {form} (" in lines[0]


def test_a_folder_may_hold_several_forms_of_which_one_can_be_chosen(tmp_path):
    put(tmp_path, *sum(FILES.values(), []), "notes.docx", "more/x.pdf")
    assert sorted(find_ratings(tmp_path)) == sorted(sum(IDS.values(), []))
    for form in FORMS:
        assert list(find_ratings(tmp_path, form)) == IDS[form]
    lines = describe(tmp_path, find_ratings(tmp_path))
    assert len(lines) == 5 and "other files or folders are left alone: more, notes.docx" in lines[-1]


def test_a_recording_in_two_forms_is_refused_until_one_is_chosen(tmp_path):
    put(tmp_path, *FILES["avec"], "dev_1.csv")
    with pytest.raises(UserError, match="dev_1.csv .recola. and .*dev_1.arff .avec. are both ratings of dev_1"):
        find_ratings(tmp_path)
    assert list(find_ratings(tmp_path, "recola")) == ["dev_1"]


@pytest.mark.parametrize("form", ["auto", *FORMS])
def test_a_folder_without_ratings_says_what_is_expected(form, tmp_path):
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(UserError, match=f"no recordings in {folder}/: it is empty. Put the gold standard there"):
            find_ratings(folder, form)


def test_what_is_in_a_form_that_nothing_reads_is_named(tmp_path):
    put(tmp_path, "P16.xlsx", "P17.mat")
    with pytest.raises(UserError, match="what is there .P16.xlsx, P17.mat. is in none of the forms"):
        find_ratings(tmp_path)
    with pytest.raises(UserError, match="P17.mat. is not in the form avec"):
        find_ratings(tmp_path, "avec")


# ---- from files of a form to a trained network ----------------------------------------------------------------------

def rewrite(folder, form):
    """The ratings of a corpus in another form."""
    ratings = {path.stem: np.loadtxt(path, delimiter=";") for path in folder.glob("*.csv")}
    shutil.rmtree(folder)
    rows = []
    for name, gold in ratings.items():
        times = np.arange(len(gold)) / 25
        for target, series in zip(TARGETS * (form == "avec"), gold.T):
            put(folder, f"{target}/{name}.arff").joinpath(f"{target}/{name}.arff").write_text(
                "@relation GOLDSTANDARD\n@attribute Instance_name string\n@attribute frameTime numeric\n"
                "@attribute GoldStandard numeric\n@data\n"
                + "".join(f"'{name}',{time:.2f},{value}\n" for time, value in zip(times, series)))
        for target, series in zip(TARGETS * (form == "recola"), gold.T):
            put(folder, f"{target}/{name}.csv").joinpath(f"{target}/{name}.csv").write_text(
                "time,FM1 \n" + "".join(f"{time:.2f},{value}\n" for time, value in zip(times, series)))
        if form == "affwild2":
            text = f"{'Train' if name.startswith('train') else 'Validation'}_Set/{name}.txt"
            put(folder, text).joinpath(text).write_text(
                "valence,arousal\n" + "".join(f"{valence},{arousal}\n" for arousal, valence in gold))
        rows.append(pd.DataFrame({"recording": name, "time_s": times, "arousal": gold[:, 0], "valence": gold[:, 1]}))
    if form == "table":
        put(folder, "all.csv")
        pd.concat(rows).to_csv(folder / "all.csv", index=False)


@pytest.mark.parametrize("form", FORMS)
def test_files_of_every_form_train_the_network_that_recola_s_train(form, made, call):
    tables = {name: pd.read_csv(table_of(made, name)) for name in ("train_1", "train_2", "dev_1")}
    rewrite(made / "ratings_gold_standard", form)
    shutil.rmtree(made / "Annotations")
    code, out, _ = call("annotations", "--data-dir", made)
    assert code == 0 and f"3 recordings in the form {form}" in out
    for name, table in tables.items():
        pd.testing.assert_frame_equal(pd.read_csv(table_of(made, name)), table)
    assert call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual")[0] == 0
    assert (run_of(made, "visual", "arousal") / "best.pt").exists()
