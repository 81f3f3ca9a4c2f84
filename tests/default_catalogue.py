"""What a sweep measures that switches no family of metrics on."""

from raydual.catalogue import entries
from raydual.catalogue.entries import Catalogue
from raydual.settings.schema import Measures

CATALOGUE = Catalogue(filter(Measures().measured, entries.CATALOGUE.values()))
