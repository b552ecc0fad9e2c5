"""Programmes that a text names without the body that runs them: the rule of the labels.

Such a programme is not a funder. Its object has the name None, the programme is the scheme, and its ids stand there:
so the labels of published records have it ("National Key R&D Program of China"). A name that holds a body ("JSPS
KAKENHI", "NIH Protein Structure Initiative", "Program of the Ministry of Health") stays the name of a funder.
"""

from __future__ import annotations

import re
from collections.abc import Collection

_PROGRAMME = re.compile(
    r"\b(?:Programm?e?s?|Plan|Projects?|Initiatives?|Schemes?|Talents?|KAKENHI|Grants?-in-Aid|"
    r"Curie Actions?|COST Actions?|Excellence Strategy)\b|Fund(?:s|ing)? for (?:the )?Central Universities|"
    r"^(?:Horizon (?:2020|Europe)|FP[5-7]|PRIN ?\d*|PAPIIT|BK21|Hatch)\b",
    re.IGNORECASE,
)
_BODY = re.compile(
    r"\b(?:Foundations?|Fund|Trust|Trustees|Council|Counsil|Commi\w+|Ministr\w+|Minist[eé]rio|Departments?|Dept|Offices?|"
    r"Agency|Institut\w*|Acad\w+|Universit(?!ies\b)\w+|College|School|Society|Association|Union|Centers?|Centres?|"
    r"Administration|Bureau|Organi[sz]ation|Corporation|Company|Hospital|Laborator\w+|Service|Division|Directorate|"
    r"Government|Communaut[eé]|Board|Authority|Bank|Ltd|Inc|GmbH|Cooperation|Fondation|Fundaci[oó]n|Stiftung|Charit\w+|"
    r"[A-Z]{2,6}SF|European|EU|Zuckerberg|Fulbright|Advanced Research Projects)\b"
)


def is_programme(name: str, bodies: Collection[str] = ()) -> bool:
    """Whether a name is that of a programme and holds no body; `bodies` are known names and acronyms of such."""
    if not _PROGRAMME.search(name) or _BODY.search(name) or name in bodies:
        return False
    return not any(word in bodies for word in re.findall(r"[\w.&]+", name))
