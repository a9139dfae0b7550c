"""What lies in the data folder and is not used, or does not go together by its names, as lines for the user."""
from corpora import features
from corpora.readers import others_in
from support.crops import IMAGES
from support.recordings import MODALITIES, is_media, natural_key, video_of


def left_alone(cfg):
    """Lines that name files in videos/, audio/, features/ and Cropped_Aligned/ that are not taken for recordings."""
    for folder in (cfg.videos_dir, cfg.audio_dir):
        if others := [path.name for path in folder.glob("[!.]*") if path.is_file() and not is_media(path)]:
            yield (f"{folder}: {len(others)} files that are not video or sound by their names are left alone "
                   f"({listed(others)})")
    folders = {cfg.features_dir / modality for modality in MODALITIES.values()}
    if others := others_in(cfg.features_dir, folders):
        yield f"{cfg.features_dir}: only visual/ and audio/ are looked into, not {others}"
    for folder in sorted(folders):
        if others := others_in(folder, set(features.find(folder).values())):
            yield f"{folder}: no features that can be read (.csv, .arff, .npy), left alone: {others}"
    if folders := holders(cfg.crops_dir):
        yield (f"WARNING: {listed([path.name for path in folders])} in {cfg.crops_dir}/ holds folders and no images: "
               f"crops of a recording were expected in {cfg.crops_dir}/<id>/, so move them up")


def holders(crops_dir):
    """The folders among the crops that hold no images but folders, as those of an archive that was unpacked there."""
    return [folder for folder in sorted(crops_dir.glob("[!.]*")) if folder.is_dir()
            and any(path.is_dir() for path in folder.iterdir())
            and not any(path.suffix.lower() in IMAGES for path in folder.iterdir())]


def apart(rated, others, cfg):
    """A line that names rated recordings of which there is nothing but ratings, if there is something of others.

    rated, others: ids of recordings with and without ratings.
    """
    made = {name for files in features.found(cfg).values() for name in files}
    made |= {path.name for path in cfg.crops_dir.glob("[!.]*") if path.is_dir()}
    made |= {path.stem for folder in (cfg.videos_dir, cfg.audio_dir) for path in folder.glob("[!.]*") if is_media(path)}
    bare = [name for name in rated if not {name, video_of(name)} & made]
    unrated = [name for name in others if name in made and name not in map(video_of, rated)]
    if bare and (unrated or len(bare) < len(rated)):
        yield (f"WARNING: {len(bare)} of {len(rated)} recordings have ratings and nothing else ({listed(bare)})"
               + f"; without ratings there are {listed(unrated)}" * bool(unrated)
               + ". Ratings, videos, sound, crops and features of a recording go by one name: do theirs differ?")


def listed(names):
    """The first three of some names, and how many more there are."""
    names = sorted(names, key=natural_key)
    return ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)
