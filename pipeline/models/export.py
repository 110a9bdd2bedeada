"""The command `im2latex export`: converts a trained model to a SavedModel, a file of weights or ONNX, or a web page."""

from __future__ import annotations

import datetime
import errno
import os
from collections.abc import Mapping
from pathlib import Path

import im2latex
from data.files import atomic_folder
from data.spelling import NORMAL
from im2latex.errors import UserError
from im2latex.weights import NAME, weights_file
from pipeline.web.folder import save_web
from pipeline.workspace import Workspace
from trainer_module.trained import Precision, Trained, load_weights, save_onnx, save_weights

SAVED_MODEL, WEIGHTS_FILE, ONNX_FILE, WEB = "savedmodel", "weights", "onnx", "web"
FORMATS = (SAVED_MODEL, WEIGHTS_FILE, ONNX_FILE, WEB)


def export_model(
    trained: Trained, out: Path, to: str, precision: Precision | None = None, npm: Path | None = None
) -> None:
    """Writes a model in one of `FORMATS`.

    Args:
        trained: the model.
        out: folder of the SavedModel or web page, or file of the weights or ONNX; it must not exist yet.
        to: one of `FORMATS`.
        precision: number format of the matrices, but in a SavedModel; the default is float32, for a web page float16.
        npm: folder with the npm packages of a web page; None downloads them.

    Raises:
        UserError: `out` exists or cannot be written, the weights do not fit the precision, or a package is missing.
    """
    if npm and to != WEB:
        raise UserError("--npm is for --format web; leave it out")
    if out.exists():
        raise UserError(f"{out} exists already; choose another --out, or remove it")
    try:
        if to == WEIGHTS_FILE:
            save_weights(out, trained, precision or "float32")
        elif to == ONNX_FILE:
            save_onnx(out, trained, precision or "float32")
        elif to == WEB:
            save_web(out, trained, precision or "float16", npm)
        else:
            save_model(trained, out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; choose another --out") from None


def read_model(weights: Path | None, model: str | None) -> Trained:
    """Reads a model from weights or from a SavedModel.

    Args:
        weights: a file, or a folder with `weights.npz`.
        model: a folder, or `reader` for the model that comes with im2latex.

    Raises:
        UserError: not exactly one of the two is given, or the model cannot be read.
    """
    if (weights is None) == (model is None):
        raise UserError("give either --weights or --model")
    if weights is not None:
        return load_weights(weights)
    assert model is not None
    if model == NAME:
        return load_weights(weights_file())
    from trainer_module.signatures import read_exported

    return read_exported(Path(model))


def calibrated(trained: Trained, data: Path, split: str, spelling: str = NORMAL) -> tuple[Trained, str]:
    """Calibrates a model's probabilities on examples that were not used in training.

    Args:
        trained: the model.
        data: a data set with splits, a folder of TFRecords, or one TFRecord file.
        split: split of a data set.
        spelling: spelling in which formulas are compared, as in `data.spelling.respell`.

    Returns:
        The calibrated model, and a message with the number of examples and the calibration error before and after.

    Raises:
        UserError: the data has no such examples.
    """
    from data.dataset.tfrecords import examples_of, read_records
    from trainer_module.calibration import calibrate
    from trainer_module.calibration import calibrated as with_fit

    records = read_records(examples_of(data, split))
    fit = calibrate(trained, [(record.image, record.latex) for record in records], spelling=spelling)
    error = f"calibration error {fit.after:.3f}, {fit.before:.3f} before"
    return with_fit(trained, fit), f"calibrated on {fit.examples:,} examples: {error}"


def with_statistics(trained: Trained, data: Path) -> tuple[Trained, str]:
    """Adds histograms of a model's training data, for models that were trained without them.

    Args:
        trained: the model.
        data: the data set that it was trained on, of which the training split is measured; or a folder of TFRecords.

    Returns:
        The model, and a message with the number of examples that were measured.

    Raises:
        UserError: the data has no such examples.
    """
    from data.dataset.tfrecords import examples_of, read_records
    from im2latex.statistics import to_document
    from trainer_module.statistics import of_records

    folder = examples_of(data, "train")
    count = sum(1 for _ in read_records(folder))
    statistics = of_records(read_records(folder), count, trained.image, trained.vocabulary, trained.max_tokens)
    measured = f"{count:,} training examples, {statistics['length'].count:,} of them measured"
    return trained._replace(statistics={**trained.statistics, **to_document(statistics)}), measured


def with_provenance(trained: Trained, model: str | None, notes: Mapping[str, str]) -> Trained:
    """Returns the model with more provenance: the date, im2latex's version, the run with its BLEU, and the notes.

    Args:
        trained: the model.
        model: the SavedModel that it was read from; the run is known if the workspace has pushed it.
        notes: texts by name.
    """
    origin = {"date": datetime.date.today().isoformat(), "im2latex": im2latex.__version__}
    pushed = _pushed(Path(model)) if model else {}
    return trained._replace(provenance={**trained.provenance, **origin, **pushed, **notes})


def _pushed(model: Path) -> dict[str, str]:
    from pipeline.serving.rollback import versions

    workspace, folder = Workspace.from_environment(), model.absolute()
    if folder.parent.parent != workspace.serving or not folder.name.isdecimal():
        return {}
    (version,) = (known for known in versions(workspace, folder.parent.name) if known.number == int(folder.name))
    scores = {} if version.bleu is None else {"scores": f"BLEU {version.bleu:.3f}"}
    return {"run": version.run, **scores} if version.run else {}


def save_model(trained: Trained, folder: Path) -> None:
    """Writes a SavedModel for images of any size, atomically.

    Raises:
        OSError: the folder cannot be written, or exists and is not empty.
        UserError: the weights do not fit the model's configuration.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import tensorflow as tf

    from trainer_module.signatures import FormulaReader, NormalisedImages

    with atomic_folder(folder) as new:
        try:
            FormulaReader(trained, NormalisedImages(trained.image)).save(str(new))
        except tf.errors.OpError as error:  # such as a full disk
            raise OSError(errno.EIO, error.message) from error
