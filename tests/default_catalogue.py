"""What a sweep measures that switches nothing on."""

from raydual.catalogue import entries
from raydual.catalogue.entries import Catalogue
from raydual.settings.measures import Measures

CATALOGUE = Catalogue(metric for metric in map(Measures().switched, entries.CATALOGUE.values()) if metric)
