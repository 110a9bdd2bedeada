"""The SavedModel that is served: encoded images in, LaTeX and its log-probability out."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_transform as tft

from trainer_module import features
from trainer_module.batching import WHITE
from trainer_module.config import STRIDE
from trainer_module.decoding import greedy
from trainer_module.model import FormulaModel


class FormulaReader(tf.Module):
    """A model with Transform's graph before it and its vocabulary behind it.

    Args:
        model: a trained model.
        transform: Transform's output; images go through the same normalisation as in training.
        vocabulary: the text of each token id.
        max_tokens: formulas are cut here.
    """

    def __init__(
        self, model: FormulaModel, transform: tft.TFTransformOutput, vocabulary: Sequence[str], max_tokens: int
    ) -> None:
        super().__init__()
        # The values and not Keras's variables: version 1 loaders do not find what Keras copies on export.
        self.weights = [variable.value for variable in model.variables]
        self.transform = transform.transform_features_layer()
        self.vocabulary = tf.constant(vocabulary)
        self.max_tokens = max_tokens
        self._read = lambda images, sizes: greedy(model, images, sizes, max_tokens)

    def save(self, folder: str) -> None:
        """Writes the SavedModel with both signatures."""
        signatures = {
            "serving_default": self.serving_default.get_concrete_function(),
            "predict_images": self.predict_images.get_concrete_function(),
        }
        tf.saved_model.save(self, folder, signatures=signatures)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="examples")])
    def serving_default(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Reads the images of serialised tf.Example records, (batch,) string."""
        parsed = tf.io.parse_example(examples, {features.IMAGE: tf.io.FixedLenFeature((), tf.string)})
        return self.predict_images(parsed[features.IMAGE])

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="images")])
    def predict_images(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Reads images: PNG, JPEG, BMP or GIF, of any size and border, (batch,) string.

        Returns:
            `latex`, (batch,) string, tokens separated by one space; `log_probability`, (batch,)
            float32, natural, of the tokens and the end.
        """
        nothing = tf.fill(tf.shape(images), "")
        normalised = self.transform({features.IMAGE: images, features.LATEX: nothing, features.NAME: nothing})
        sizes = tf.cast(tf.stack([normalised[features.HEIGHT], normalised[features.WIDTH]], axis=1), tf.int32)
        # No image, no extent: a cell is enough to shape an empty batch.
        padded = -(-tf.maximum(tf.reduce_max(sizes, axis=0), 1) // STRIDE) * STRIDE

        def decode(image: tf.Tensor) -> tf.Tensor:
            pixels = tf.io.decode_png(image, channels=1)
            below, right = padded[0] - tf.shape(pixels)[0], padded[1] - tf.shape(pixels)[1]
            return tf.pad(pixels, [[0, below], [0, right], [0, 0]], constant_values=WHITE)

        # One white image more, which the answer leaves out: map_fn cannot shape the result of no image.
        encoded = tf.concat(
            [normalised[features.IMAGE], [tf.io.encode_png(tf.fill((1, 1, 1), tf.constant(WHITE, tf.uint8)))]], 0
        )
        pixels = tf.map_fn(decode, encoded, fn_output_signature=tf.TensorSpec((None, None, 1), tf.uint8))[:-1]
        read = self._read(pixels, sizes)
        lengths = tf.reduce_sum(tf.cast(read.tokens != features.PAD, tf.int32), axis=1)
        tokens = tf.RaggedTensor.from_tensor(tf.gather(self.vocabulary, read.tokens), lengths)
        return {
            "latex": tf.strings.reduce_join(tokens, axis=-1, separator=" "),
            "log_probability": read.log_probability,
        }
