"""The text of a new definition file, for people who write their first one."""

from __future__ import annotations

from features.attributes.definition import ValueType, name_problem
from features.errors import InvalidInput

_KIND_KEYS: dict[str, str] = {
    "boolean": "value_type: boolean        # or category (with labels), or score (with a range)\n",
    "category": (
        "value_type: category       # exactly one label of a list\n"
        "labels: [low, medium, high]  # at least two, in a fixed order: changing them later needs a new name\n"
    ),
    "score": (
        "value_type: score          # a number\n"
        "range: [1, 5]              # lowest and highest; changing them later needs a new name\n"
    ),
}
_EXAMPLE_VALUES = {"boolean": ("true", "false"), "category": ("high", "low"), "score": ("5", "1")}
_TEMPLATE = """\
# One attribute, as raters and models read it. Everything down to `evidence` is shown to them: an edit there asks
# again about every video (for this attribute only). Check the file with: vidattr attributes check

# The column in the feature store, and the name of this file. It stays for good.
name: {name}
title: {title}

# One sentence, ending in a question mark, that somebody who has just watched the video can answer.
question: Would most viewers call this video {plain}?

# A paragraph that settles what counts. Say what decides when two readings are possible, for example whether the
# subject, the mood or the style of editing has the last word.
definition: >
  A video is {plain} when it leaves most viewers with that feeling. What is felt decides, not what the title claims.

# Concrete, short sentences about what is seen, heard or said. The baseline compares each with each sentence of the
# video, so "A baby laughs at a dog" works and "Anything heart-warming" does not. Four to seven are enough.
includes:
  - The people in the video say or show that they feel {plain}
  - The pictures and the music are {plain} throughout

# What looks like it and is not: the cases over which two careful people would otherwise differ.
excludes:
  - The title or a hashtag says {plain} but nothing in the video is
  - An advertisement that only uses the word

# Described videos with the right answer and the reason; near misses teach most. Aim for three or more.
examples:
  - video: Describe in one or two sentences a video that clearly is {plain}
    value: {yes}
    reason: What in it decides
  - video: Describe in one or two sentences a video that almost is
    value: {no}
    reason: What it lacks

{kind}
# What annotators are shown: frames, title, description, hashtags, transcript, onscreen_text, tags, measurements.
# Hashtags such as #{name} give the answer away; leave them out if you want the video itself judged.
evidence: [frames, title, description, hashtags, transcript, tags, measurements]

# Not shown to annotators: free to change at any time.
owner: Who answers questions about this definition
stage: draft               # draft, priority (annotated by the model), distilled (a student exists), full
serving_threshold: 0.5     # from which probability on it counts as present online, 0 to 1
"""


def template(name: str, value_type: ValueType = "boolean") -> str:
    """The text of a new definition file, with comments that teach; it loads as it is.

    Raises InvalidInput when `name` is not a good one.
    """
    if problem := name_problem(name):
        raise InvalidInput(problem)
    plain = name.strip("_").replace("_", " ")
    yes, no = _EXAMPLE_VALUES[value_type]
    return _TEMPLATE.format(name=name, title=plain.capitalize(), plain=plain, kind=_KIND_KEYS[value_type], yes=yes, no=no)
