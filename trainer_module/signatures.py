"""The served SavedModel: takes encoded images, returns LaTeX and its log-probability."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf
from pydantic import ValidationError

from im2latex.calibration import CERTAIN
from im2latex.errors import UserError
from im2latex.images import WHITE
from im2latex.models import ONNX
from im2latex.reading import Beam, Decoding
from trainer_module import features
from trainer_module.config.image import STRIDE, ImageConfig
from trainer_module.decoding import Decoded, search
from trainer_module.image_graph import normalise_batch, rescale
from trainer_module.trained import Trained, description, from_description, onnx_of
from trainer_module.weights import model_of, named_weights


class FormulaReader:
    """A model from encoded images to LaTeX: image normalisation, network, search and vocabulary.

    Args:
        trained: the trained model.
        normalise: maps encoded images, (batch,) string, to `image`, normalised PNG, (batch,) string, and
            `height` and `width`, (batch,) int64, as Transform does.
    """

    def __init__(self, trained: Trained, normalise: Callable[[tf.Tensor], dict[str, tf.Tensor]]) -> None:
        model = model_of(trained)
        # TensorFlow's variables instead of Keras's: loaders of TensorFlow 1 do not find Keras's copies on export.
        self.weights = [weight.value for weight in named_weights(model).values()]
        self.normalise = normalise
        self.vocabulary = tf.constant(trained.vocabulary)
        described = description(trained) | {"weights": list(named_weights(model))}
        self._description = json.dumps(described, ensure_ascii=False)
        self._onnx = onnx_of(trained)
        self._image, self._calibration = trained.image, trained.calibration
        self._decoding = Decoding(**described["decoding"])
        self._search = lambda images, sizes, width, length_penalty, views=1: search(
            model, images, sizes, trained.max_tokens, width, length_penalty, views, trained.vocabulary
        )

    def save(self, folder: str) -> None:
        """Writes the SavedModel with all signatures, the model's description, and the model as ONNX."""
        names = ("serving_default", "predict_images", "predict_alternatives")
        signatures = {name: getattr(self, name).get_concrete_function() for name in names}
        # The module contains what the signatures refer to. If it contained the functions too, they would be traced and
        # written twice.
        module = tf.Module()
        module.weights, module.normalise, module.vocabulary = self.weights, self.normalise, self.vocabulary
        tf.saved_model.save(module, folder, signatures=signatures)
        description = Path(folder) / features.DESCRIPTION
        description.parent.mkdir(exist_ok=True)
        description.write_text(self._description + "\n", encoding="utf-8")
        (Path(folder) / ONNX).write_bytes(self._onnx)

    # The signatures need no autograph, because no Python control flow depends on tensors; it would take seconds.
    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="examples")], autograph=False)
    def serving_default(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Reads the images of serialised tf.Example records, (batch,) string."""
        parsed = tf.io.parse_example(examples, {features.IMAGE: tf.io.FixedLenFeature((), tf.string)})
        return self.predict_images(parsed[features.IMAGE])

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="images")], autograph=False)
    def predict_images(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Reads images with the model's own search (`Trained.decoding`).

        Args:
            images: PNG, JPEG, BMP or GIF, of any size and border, (batch,) string.

        Returns:
            `latex`, (batch,) string, tokens separated by one space; `log_probability`, (batch,) float32, natural
            log-probability of the tokens and the end token; `probability`, (batch,) float32, and `token_probability`,
            (batch, tokens) float32, 0 after the last token: calibrated probabilities that the formula and each token
            are right. A blank image gives "" with log-probability 0 and probability 0.
        """
        first, search = self._decoding.first_search(Beam(1)), self._decoding.search(Beam(1))
        read = self._read(images, first.width, search.length_penalty, search.width)
        return {name: value[:, 0] for name, value in read.items() if name != "score"}

    @tf.function(
        input_signature=[
            tf.TensorSpec((None,), tf.string, name="images"),
            tf.TensorSpec((), tf.int32, name="width"),
            tf.TensorSpec((), tf.float32, name="length_penalty"),
        ],
        autograph=False,
    )
    def predict_alternatives(
        self, images: tf.Tensor, width: tf.Tensor, length_penalty: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Reads images with a given beam search and returns all hypotheses.

        Args:
            images: as in `predict_images`.
            width: beam width, () int32, at least 1.
            length_penalty: as in `search`, () float32.

        Returns:
            `latex`, (batch, width) string, best first; `log_probability`, `score` and `probability`, (batch, width)
            float32; `token_probability`, (batch, width, tokens) float32. For a blank image, the first hypothesis is ""
            with 0 for all, and the others are empty with minus infinity.
        """
        with tf.control_dependencies([tf.debugging.assert_positive(width, "width has to be at least 1")]):
            width = tf.identity(width)
            return self._read(images, width, length_penalty, width)

    def _read(
        self,
        images: tf.Tensor,
        width: int | tf.Tensor,
        length_penalty: float | tf.Tensor,
        width_of_doubtful: int | tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """Reads images, and doubtful ones again with a beam that is at least as wide; returns `width` hypotheses."""
        count = tf.shape(images)[0]
        normalised = self.normalise(images)
        # Append a white image, which is read only if the batch is empty and never returned, because
        # neither map_fn nor oneDNN's convolutions support an empty batch.
        white = tf.io.encode_png(tf.fill((1, 1, 1), tf.constant(WHITE, tf.uint8)))
        encoded = tf.concat([normalised[features.IMAGE], [white]], 0)
        sizes = tf.cast(tf.stack([normalised[features.HEIGHT], normalised[features.WIDTH]], axis=1), tf.int32)
        sizes = tf.concat([sizes, [[1, 1]]], 0)[: tf.maximum(count, 1)]
        pixels = _padded(encoded[: tf.shape(sizes)[0]], sizes)
        read = self._search(pixels, sizes, width, length_penalty)
        # A blank image always gives "", whatever the model predicts.
        blank = tf.reduce_all(pixels == WHITE, axis=(1, 2, 3))[:, tf.newaxis]
        if self._decoding.rereads:
            read = self._read_doubtful_again(read, blank, pixels, sizes, width_of_doubtful, length_penalty)
        lengths = tf.reduce_sum(tf.cast(read.tokens != features.PAD, tf.int32), axis=2)
        texts = tf.gather(self.vocabulary, read.tokens)
        tokens = tf.RaggedTensor.from_tensor(tf.reshape(texts, (-1, texts.shape[2])), tf.reshape(lengths, (-1,)))
        latex = tf.reshape(tf.strings.reduce_join(tokens, axis=-1, separator=" "), tf.shape(lengths))
        fit = self._calibration
        of_formula = _calibrated(read.log_probability, fit.formula_slope, fit.formula_offset)
        of_token = _calibrated(read.token_log_probability, fit.token_slope, fit.token_offset)
        is_token = tf.logical_and(read.tokens != features.PAD, tf.logical_not(blank)[:, :, tf.newaxis])
        of_token = tf.where(is_token, of_token, 0.0)[:, :, : tf.reduce_max(lengths)]
        of_blank = tf.where(tf.range(tf.shape(lengths)[1]) == 0, 0.0, -float("inf"))
        return {
            "latex": tf.where(blank, "", latex)[:count],
            "log_probability": tf.where(blank, of_blank, read.log_probability)[:count],
            "score": tf.where(blank, of_blank, read.score)[:count],
            "probability": tf.where(blank, 0.0, of_formula)[:count],
            "token_probability": of_token[:count],
        }

    def _read_doubtful_again(
        self,
        read: Decoded,
        blank: tf.Tensor,
        pixels: tf.Tensor,
        sizes: tf.Tensor,
        width: int | tf.Tensor,
        length_penalty: float | tf.Tensor,
    ) -> Decoded:
        """Reads images again if their reading is not probable enough, in their own and other sizes together.

        Args:
            read: the hypotheses of each image; so many are returned.
            blank: whether an image has no ink, (batch, 1).
            pixels, sizes, width, length_penalty: as in `search`.
        """
        scales = (1.0, *self._decoding.rescales)
        is_doubtful = (read.log_probability[:, 0] < math.log(self._decoding.rescale_below)) & ~blank[:, 0]
        doubtful = tf.cast(tf.where(is_doubtful)[:, 0], tf.int32)

        def rescaled(of: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            image = pixels[of[0], : sizes[of[0], 0], : sizes[of[0], 1]]
            image = rescale(image, of[1], self._image)
            return tf.io.encode_png(image, compression=0), tf.shape(image)[:2]

        def again() -> Decoded:
            pairs = tf.repeat(doubtful, len(scales)), tf.tile(tf.constant(scales, tf.float64), tf.shape(doubtful))
            specs = tf.TensorSpec((), tf.string), tf.TensorSpec((2,), tf.int32)
            encoded, view_sizes = tf.map_fn(rescaled, pairs, fn_output_signature=specs)
            of_views = self._search(_padded(encoded, view_sizes), view_sizes, width, length_penalty, len(scales))
            return Decoded(
                *(
                    tf.tensor_scatter_nd_update(
                        of_all, doubtful[:, tf.newaxis], new[:: len(scales), : tf.shape(of_all)[1]]
                    )
                    for of_all, new in zip(read, of_views, strict=True)
                )
            )

        return tf.cond(tf.size(doubtful) > 0, again, lambda: read)


def _padded(encoded: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Decodes PNGs and pads them with white: (batch,) string to (batch, height, width, 1) uint8."""
    padded = -(-tf.reduce_max(sizes, axis=0) // STRIDE) * STRIDE

    def decode(image: tf.Tensor) -> tf.Tensor:
        pixels = tf.io.decode_png(image, channels=1)
        below, right = padded[0] - tf.shape(pixels)[0], padded[1] - tf.shape(pixels)[1]
        return tf.pad(pixels, [[0, below], [0, right], [0, 0]], constant_values=WHITE)

    return tf.map_fn(decode, encoded, fn_output_signature=tf.TensorSpec((None, None, 1), tf.uint8))


def _calibrated(log_probability: tf.Tensor, slope: float, offset: float) -> tf.Tensor:
    """The probability of being right; of what has none, 0."""
    below = tf.minimum(log_probability, CERTAIN)
    return tf.sigmoid(slope * (below - tf.math.log(1.0 - tf.exp(below))) + offset)


class NormalisedImages(tf.Module):
    """Image normalisation for `FormulaReader` that does not need an output of Transform."""

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        self.config = config

    def __call__(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        return normalise_batch(images, self.config)


def read_exported(folder: str | Path) -> Trained:
    """Reads the trained model from a SavedModel that `FormulaReader` wrote.

    Raises:
        UserError: the folder contains no such model, or it is damaged.
    """
    folder = Path(folder)
    try:
        described = json.loads((folder / features.DESCRIPTION).read_text(encoding="utf-8"))
        reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
        weights = {
            name: reader.get_tensor(f"weights/{i}/.ATTRIBUTES/VARIABLE_VALUE")
            for i, name in enumerate(described["weights"])
        }
        return from_description(described, weights)
    except (KeyError, OSError, TypeError, ValidationError, ValueError, tf.errors.OpError) as error:
        raise UserError(
            f"{folder} is not a model that this pipeline exported ({type(error).__name__}); "
            "name the folder of a version, such as workspace/serving/im2latex/VERSION"
        ) from None
