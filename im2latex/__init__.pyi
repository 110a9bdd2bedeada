from im2latex.errors import ImageError as ImageError
from im2latex.errors import UserError as UserError
from im2latex.reader import Picture as Picture
from im2latex.reader import Reader as Reader
from im2latex.reading import Attention as Attention
from im2latex.reading import Hypothesis as Hypothesis
from im2latex.reading import Reading as Reading

__version__: str

_reader: Reader
predict = _reader.predict
