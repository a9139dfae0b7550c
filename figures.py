import math
from pathlib import Path
from runs import read_log
from support.files import whole_file
def draw_curves(folder):
    """curves.png in a run's folder: the parts of the loss, the CCC of training batches and of validation, the gate, by epoch."""
    from matplotlib.figure import Figure  # here: it takes a second, and without pyplot no display is asked for
    entries = read_log(folder)
    epochs = [entry["epoch"] for entry in entries]
    series = {name: [entry.get(name, math.nan) for entry in entries] for name in entries[0] if isinstance(entries[0][name], float)} if entries else {}
    figure = Figure((12, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    for name, values in series.items():
        if name not in ("seconds", "beta", "gradient"):
            panels[0].plot(epochs, values, ".-", label=name)
    if "task" in series:
        rated = [1 - value if value else math.nan for value in series["task"]]  # 0: an epoch of people whom nobody rated
        panels[1].plot(epochs, rated, ".--", color="grey", label="training batches")
    for target in entries[0]["val"] if entries else ():
        panels[1].plot(epochs, [entry["val"][target]["mean"] for entry in entries], ".-", label=f"validation, {target}")
    if "beta" in series:
        panels[2].plot(epochs, series["beta"], ".-", label="gate: weight of the teacher")
        panels[2].set_ylim(0, 1)
    if "gradient" in series:
        right = panels[2].twinx()
        right.plot(epochs, series["gradient"], ".--", color="grey")
        right.set(ylabel="norm of the gradient (grey)", ylim=(0, None))
    for panel, title in zip(panels, ["parts of the loss", "CCC", "gate and gradient"]):
        panel.set(title=title, xlabel="epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
        if panel.lines:
            panel.legend(fontsize=8, loc="lower left" if panel is panels[2] else "best")
    figure.suptitle(Path(folder).name)
    with whole_file(Path(folder, "curves.png")) as part:
        figure.savefig(part, dpi=100)


