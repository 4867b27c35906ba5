"""Which language a response is in, by the verdict that IFEval's scores are known by.

That is langdetect's, with its faults: it takes one in ten English texts that are all capitals for German, because it leaves
most of their letters out. A better one (hornbook.data.language) would give other scores than everybody else's.
"""

from __future__ import annotations

from functools import cache
from threading import Lock
from typing import Any

_CODES = "ar bg bn de en es fa fi fr gu he hi it ja kn ko ml mr ne pa pl pt ru sw ta te th uk ur vi"  # that the benchmark asks for
LANGUAGES = frozenset(_CODES.split())

_first_use = Lock()


def detected(text: str) -> str | None:
    """The code of the language, as langdetect has it ("en", "zh-cn"); None where there is nothing to tell it by.

    langdetect draws random numbers. Here they are the same for each text, so that a score can be repeated.
    """
    from langdetect.lang_detect_exception import LangDetectException

    with _first_use:
        factory = _factory()
    detector = factory.create()
    detector.append(text)
    try:
        return str(detector.detect())
    except LangDetectException:
        return None


@cache
def _factory() -> Any:
    from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory

    factory = DetectorFactory()
    factory.load_profile(PROFILES_DIRECTORY)
    factory.set_seed(0)  # of this one alone: a person's own use of the package is not touched
    return factory
