"""The exceptions for what a person can put right, which `im2latex.errors` defines."""

from im2latex.errors import ImageError as ImageError
from im2latex.errors import UserError as UserError
