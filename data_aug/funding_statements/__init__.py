"""Synthetic funding statements with exact labels.

Every statement is composed from many small choices in the project's own wording; names of well-known funders, the
Crossref Funder Registry (CC0) and the shapes of award identifiers are facts, people are invented.

Conventions of the labels, the same everywhere:

* Names, schemes, titles and identifiers are literal parts of the text. "the" before a name is left out, an acronym or
  a country inside the name is kept.
* Identifiers come without "grant no.", "#" or the name of the funder before a blank ("NSF grant DMS-1613002" gives
  "DMS-1613002"); what a hyphen or slash ties to the number stays ("ANR-17-CE12-0018", "NRF-2019R1A2C1002114").
* One object for each funder, in the order of the text, with all its awards, also when it is named again later.
  One award object for each scheme or title; all identifiers that have neither share one object. A funder without
  awards carries one empty award object. A scheme inside another one shares its award object, in the order of the text.
* Money that a body spends for another ("through", "under the Horizon 2020 programme of the European Union") gives two
  objects: the identifier belongs to the body that made the award.
* A programme without a funder gives an object of its own whose name is None. People, reviewers, hosts, laboratories and
  makers of reagents are not funders; bodies named in a disclaimer are.
"""

from __future__ import annotations

from adapters.data_aug.funding_statements.labels import Row
from adapters.data_aug.funding_statements.statement import synthesize

__all__ = ["Row", "synthesize"]
