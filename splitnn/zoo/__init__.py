"""Real models with their own preprocessing, real photos to show them, and any ``package.module:factory``.

Importing this package imports neither torch nor any package that holds a model.
"""

from splitnn.zoo.catalogue import Entry as Entry
from splitnn.zoo.catalogue import Example as Example
from splitnn.zoo.catalogue import load as load
from splitnn.zoo.catalogue import models as models
from splitnn.zoo.photographs import labels as labels
from splitnn.zoo.photographs import photo_names as photo_names
from splitnn.zoo.photographs import photos as photos
from splitnn.zoo.reference import resolve as resolve

__all__ = ["Entry", "Example", "labels", "load", "models", "photo_names", "photos", "resolve"]
