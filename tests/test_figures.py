"""figures.py: what each figure is made of."""
import json

import cv2
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

import figures
from figures import FACES, curves_figure, draw_curves, face_strip, summary_figure, traces_figure, value_limits
from plot_ccc import Run
from postprocessing import PostProcessing
from report_page import charts
from scores import gaps_closed
from support.errors import UserError

FRAMES = 50


def run_of(name, pred=lambda gold: gold, settings=None):
    """A run with one recording in Val_Set, whose gold standard is a sine."""
    gold = 0.5 * np.sin(np.arange(FRAMES) / 8)
    table = pd.DataFrame({"time_s": np.arange(FRAMES) / 25, "arousal_gold": gold, "arousal_pred": pred(gold)})
    return Run(name, {}, {"dev_1": table}, settings or {})


def table_of(runs, value=0.5):
    """plots/ccc.csv of runs that all have the same CCC."""
    return pd.DataFrame([{"run": run.name, "target": "arousal", "recording": name, "frames": FRAMES, "ccc_raw": value,
                          "ccc_postprocessed": value} for run in runs for name in ("dev_1", "mean", "concatenated")])


def texts_of(fig):
    """All texts of a figure, one below the other."""
    return "\n".join(text.get_text() for text in fig.findobj(lambda artist: hasattr(artist, "get_text")))


def test_the_faces_of_a_recording_stand_above_its_traces_in_order(tmp_path):
    for k in range(28):
        cv2.imwrite(str(tmp_path / f"{k:06d}.jpg"), np.full((32, 32, 3), 8 * k, np.uint8))
    strip = face_strip(tmp_path, 28)
    assert strip.shape == (32, FACES * 34, 3)
    assert np.allclose(strip[16, 17::34, 0], 8 * np.arange(1, 28, 2), atol=2)
    assert face_strip(tmp_path, 60) is None  # crops of the second half are missing


def test_crops_of_another_program_are_shown_too(tmp_path):
    folder, table = tmp_path / "Cropped_Aligned" / "a", tmp_path / "Annotations" / "Val_Set" / "a.csv"
    folder.mkdir(parents=True), table.parent.mkdir(parents=True)
    for k in range(FACES):
        cv2.imwrite(str(folder / f"{k + 1:05d}.jpg"), np.full((32, 32, 3), 8 * k, np.uint8))
    table.write_text("image path,spec path\n" + "".join(f"a/{k + 1:05d}.jpg,\n" for k in range(FACES)))
    assert np.allclose(face_strip(folder, FACES)[16, 17::34, 0], 8 * np.arange(FACES), atol=2)
    assert len(charts.faces(folder, FACES, 25)) == FACES


def test_faces_are_shown_in_their_colours_and_a_damaged_one_is_named(tmp_path):
    for k in range(FACES):
        cv2.imwrite(str(tmp_path / f"{k:06d}.jpg"), np.full((32, 32, 3), (0, 0, 255), np.uint8))  # BGR: red
    assert face_strip(tmp_path, FACES)[16, 17].tolist() == pytest.approx([255, 0, 0], abs=3)
    (tmp_path / "000003.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="000003.jpg.*face_detector.py"):
        face_strip(tmp_path, FACES)


def test_curves_of_one_recording_share_their_limits_with_all_runs_and_a_wild_one_does_not_flatten_them():
    run, wild = run_of("visual_arousal"), run_of("audio_arousal", lambda gold: 500 * gold)
    gold = run.val["dev_1"]["arousal_gold"]
    margin = 0.05 * np.ptp(gold)
    after = {each.name: each.val for each in (run, wild)}
    assert value_limits([run], after)["arousal"] == pytest.approx((gold.min() - margin, gold.max() + margin))
    assert value_limits([run, wild], after)["arousal"] == pytest.approx((-1.1, 1.1))


def test_figures_say_how_a_student_was_taught_and_which_runs_are_left_out():
    student = run_of("student_arousal_pseudo", settings={"distill": "pseudo", "teachers": "audio+visual"})
    traces = traces_figure(student, "dev_1", student.val["dev_1"], {"arousal": ""}, {"arousal": (-1, 1)}, None)
    assert student.about in texts_of(traces)
    runs = [run_of("visual_arousal"), student]
    text = texts_of(summary_figure(runs, table_of(runs), ["Left out: audio_both."]))
    assert "of audio and visual teachers" in text and "audio_both" in text


def test_the_band_of_the_gap_is_drawn_for_one_pair_of_bounds_alone():
    def bands(*names):
        runs = [run_of(name) for name in names]
        table = table_of(runs)
        table["ccc_raw"] += 0.2 * table["run"].str.startswith("teacher")
        patches = summary_figure(runs, table, []).axes[0].patches
        return sum(to_hex(patch.get_facecolor()) == "#f3efe2" for patch in patches)
    assert bands("visual_arousal", "teacher_arousal") == 1
    assert bands("visual_arousal") == bands("visual_arousal", "teacher_arousal", "teacher_arousal_word") == 0


def test_a_student_is_compared_with_the_bounds_of_its_variant_or_else_of_none():
    plain, word = (run_of(f"student_both_cosine{end}")._replace(settings={"variant": end[1:]})
                   for end in ("", "_word"))
    values = {"visual_both": [0.0], "teacher_both": [1.0], plain.name: [0.5], word.name: [0.5]}
    assert gaps_closed(values, plain) == gaps_closed(values, word) == ["50%"]
    values["visual_both_word"] = [0.4]  # one bound alone does not do
    assert gaps_closed(values, word) == ["50%"]
    values["teacher_both_word"] = [0.8]
    assert gaps_closed(values, word) == ["25%"] and gaps_closed(values, plain) == ["50%"]
    for other in (run_of("teacher_both_word"), run_of("student_valence_cosine"), word._replace(members=("a", "b"))):
        assert gaps_closed(values, other) == []


def test_a_caption_names_only_the_steps_that_change_something():
    assert figures.steps_text(PostProcessing(delay_frames=50), "mean", 25) == "delay 2 s"
    assert "no step" in figures.steps_text(PostProcessing(), "mean", 25)
    assert "undefined" in figures.ccc_text(np.nan, np.nan, "")


def test_curves_are_drawn_of_a_whole_and_of_an_empty_log(tmp_path):
    entries = [{"epoch": epoch, "seconds": 1.0, "loss": 1 / epoch, "task": 0.9 / epoch, "beta": 0.5, "gradient": 2.0,
                "val": {"arousal": {"mean": 0.1 * epoch, "concatenated": 0.2}}, "best": True} for epoch in (1, 2, 3)]
    losses, cccs, gate, _ = curves_figure(entries, "visual_arousal").axes
    assert [line.get_label() for line in losses.lines] == ["loss", "task"]
    assert cccs.lines[0].get_ydata() == pytest.approx([0.1, 0.55, 0.7]) and cccs.lines[1].get_ydata()[0] == 0.1
    assert list(gate.lines[0].get_ydata()) == [0.5] * 3
    for log in (entries, []):
        (tmp_path / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))
        draw_curves(tmp_path)
        assert cv2.imread(str(tmp_path / "curves.png")).shape == (360, 1200, 3)


# ---- predictions for one video --------------------------------------------------------------------------------------

def predictions_of(*people, frames=FRAMES):
    """A table as predict.py writes it; without a face from frame 20 to 29."""
    tables = [pd.DataFrame({"time_s": np.arange(frames) / 25, "person": person, "face": "tracked",
                            "arousal": np.sin(np.arange(frames) / 8 + person)}) for person in people]
    table = pd.concat(tables, ignore_index=True)
    table.loc[table["time_s"].between(0.79, 1.17), ["arousal", "face"]] = np.nan, "missing"
    return table if len(people) > 1 else table.drop(columns="person")


def test_predictions_have_a_gap_where_there_is_no_face_and_faces_stand_at_their_times():
    crops = [None if cell == 6 else np.full((16, 16, 3), 10 * cell, np.uint8) for cell in range(14)]
    fig = figures.prediction_figure(predictions_of(1), ["arousal"], "a $x^2$", "a student", {1: crops})
    strip, axes = fig.axes
    (image,), (_, curve) = strip.get_images(), axes.lines  # the first line is zero
    cells = np.split(np.asarray(image.get_array()), 14, axis=1)
    assert [int(cell[8, 8, 0]) for cell in cells] == [236 if crop is None else 10 * n for n, crop in enumerate(crops)]
    assert np.flatnonzero(np.isnan(curve.get_ydata())).tolist() == list(range(20, 30))
    assert axes.get_xlim() == pytest.approx((0, FRAMES / 25)) and strip.get_position().x0 == axes.get_position().x0
    [band] = axes.patches  # grey: no face
    assert (band.get_x(), band.get_width()) == pytest.approx((0.8, 0.4))
    assert "a $x^2$" in texts_of(fig) and "person" not in texts_of(fig)
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["no face"]
    assert axes.get_xlabel() == "time in the video, seconds" and "-1 calm, 1 excited" in axes.get_title(loc="left")


def test_each_person_has_a_curve_of_a_colour_of_its_own():
    fig = figures.prediction_figure(predictions_of(1, 2, 3), ["arousal"], "a", "a student", {1: [None] * 14})
    curves = fig.axes[-1].lines[1:]
    assert [curve.get_label() for curve in curves] == ["person 1", "person 2", "person 3"]
    assert len({to_hex(curve.get_color()) for curve in curves}) == 3 and len(fig.axes) == 1  # no faces above


def test_small_changes_are_not_drawn_large():
    table = predictions_of(1).assign(arousal=0.1)
    axes = figures.prediction_figure(table, ["arousal"], "a", "", {}).axes[-1]
    low, high = axes.get_ylim()
    assert low < 0.1 < high and high - low == pytest.approx(figures.SPAN)


def test_the_first_persons_have_rows_of_faces_one_above_the_other():
    crops = {person: [np.full((16, 16, 3), 80 * person, np.uint8)] * 14 for person in (1, 2)}
    fig = figures.prediction_figure(predictions_of(1, 2), ["arousal"], "a", "a student", crops | {3: [None] * 14})
    first, second, axes = fig.axes
    assert [int(strip.get_images()[0].get_array()[8, 8, 0]) for strip in (first, second)] == [80, 160]
    assert first.get_position().y0 > second.get_position().y1 > axes.get_position().y1
    assert [strip.texts[0].get_text() for strip in (first, second)] == ["1", "2"]
    assert first.texts[0].get_color() == axes.lines[1].get_color()


def test_a_single_frame_between_two_gaps_is_a_dot():
    table = predictions_of(1)
    table.loc[25, ["arousal", "face"]] = 0.5, "detected"
    *_, dot = figures.prediction_figure(table, ["arousal"], "a", "", {}).axes[-1].lines
    assert (dot.get_xdata().tolist(), dot.get_ydata().tolist(), dot.get_marker()) == ([1.0], [0.5], ".")


def test_a_long_video_is_thinned_to_what_can_be_seen_and_has_an_axis_in_minutes():
    axes = figures.prediction_figure(predictions_of(1, frames=90000), ["arousal"], "a", "", {}).axes[-1]
    curve = axes.lines[1]
    assert len(curve.get_ydata()) <= 2 * figures.BUCKETS and np.ptp(curve.get_ydata()) == pytest.approx(2, abs=0.01)
    assert axes.get_xlim() == pytest.approx((0, 60)) and axes.get_xlabel().endswith("minutes")
