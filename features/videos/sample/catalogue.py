"""What the clips of the sample corpus are about, and what is truly in each: titles, captions, and the planted attributes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np

from features.videos.sample.sound import Sound

ATTRIBUTES: tuple[str, ...] = ("inspiring", "calming", "funny", "authentic", "energetic", "cozy")
"""The attributes that are planted, in a fixed order."""

Genre = Literal["cozy", "calming", "energetic", "funny", "authentic", "inspiring", "plain"]
GENRES: tuple[Genre, ...] = ("cozy", "calming", "energetic", "funny", "authentic", "inspiring", "plain")

MISLEADING_TITLES: dict[Genre, tuple[str, ...]] = {
    "cozy": ("This got INTENSE", "Wildest party of the year??"),
    "calming": ("INSANE ending, you won't believe it", "Most chaotic day ever"),
    "energetic": ("slow sunday, nothing happening", "a quiet little moment"),
    "funny": ("Important announcement", "A serious talk"),
    "authentic": ("Official trailer", "Top 10 luxury hacks"),
    "inspiring": ("I can't stop laughing at this", "meh"),
    "plain": ("This will change your life", "The funniest thing I have ever seen"),
}
NEUTRAL_TITLES: tuple[str, ...] = (
    "IMG_4471", "Tuesday", "New upload", "part 2", "test test", "VID_20260214_184530", "for you", "#shorts", "Untitled",
    "saw this today",
)  # fmt: skip
LEAKING_HASHTAGS: dict[str, tuple[str, ...]] = {
    "inspiring": ("inspiring", "motivation"),
    "calming": ("calming", "relax"),
    "funny": ("funny", "comedy"),
    "authentic": ("authentic", "reallife"),
    "energetic": ("energetic", "hype"),
    "cozy": ("cozy", "cozyvibes"),
}
PLAIN_HASHTAGS: tuple[str, ...] = ("shorts", "fyp", "viral", "daily", "video", "foryou", "weekend", "new")
CREATORS: dict[Genre, tuple[str, ...]] = {
    "cozy": ("hearth.and.home", "skywatcher"),
    "calming": ("skywatcher", "lena.outdoors"),
    "energetic": ("pulse.crew", "neon.nights"),
    "funny": ("doodle.dan", "mittens.daily"),
    "authentic": ("just.maya", "tom.unfiltered"),
    "inspiring": ("lena.outdoors", "coach.ade"),
    "plain": ("deskmaker", "city.cam"),
}


@dataclass(frozen=True)
class Subject:
    """One kind of clip: the scene, what it truly is, what it sounds like, and what its creator writes about it."""

    scene: str
    genre: Genre
    attributes: tuple[str, ...]
    sounds: tuple[Sound, ...]
    titles: tuple[tuple[str, str], ...]
    hashtags: tuple[str, ...]
    captions: tuple[str, ...]
    transcripts: tuple[str, ...] = ()


SUBJECTS: tuple[Subject, ...] = (
    Subject(
        "fireplace", "cozy", ("cozy", "calming"), ("crackle", "pad", "none"),
        (
            ("Fire's on, blanket's on", "Nothing but crackling logs tonight."),
            ("Old brick hearth, first fire of the year", "It smells of pine in here."),
            ("Noche de chimenea", "Leña seca y una manta."),
        ),
        ("fireplace", "hygge", "winter"), ("stay in tonight", "listen to it crackle"),
    ),
    Subject(
        "rain_window", "cozy", ("cozy", "calming"), ("rain", "rain", "silence"),
        (
            ("Rain on the window and a cup of tea", "The city can wait."),
            ("Sunday rain", "Recorded from my desk."),
            ("Regen am Fenster", "Tee, Decke, fertig."),
        ),
        ("rain", "tea", "window"), ("tea's ready", "no plans today"),
    ),
    Subject(
        "candle", "cozy", ("cozy", "calming"), ("pad", "silence", "crackle"),
        (
            ("Two candles, one mug, no phone", "My favourite half hour of the day."),
            ("Evening light", "Warm drink, dim room."),
            ("Power cut, so this happened", "Honestly it should go out more often."),
        ),
        ("candlelight", "evening", "hotchocolate"), ("lights off for a while", "warm mug, warm hands"),
    ),
    Subject(
        "snow_cabin", "cozy", ("cozy", "calming"), ("wind", "pad", "crackle"),
        (
            ("Snowed in at the cabin", "Lights on, stove on, road closed."),
            ("First snow at grandma's place", "You can see the smoke from the chimney."),
            ("We are not leaving this cabin", "Soup on the stove."),
        ),
        ("cabin", "snow", "december"), ("road's closed. good.", "soup is on"),
    ),
    Subject(
        "clouds", "calming", ("calming",), ("wind", "pad", "none"),
        (
            ("Clouds going nowhere in particular", "Look up for a few seconds."),
            ("Sky above the hills, 6 pm", "No filter, no hurry."),
            ("Nubes", "Un minuto de cielo."),
        ),
        ("sky", "clouds", "nature"), ("breathe in", "breathe out"),
    ),
    Subject(
        "waves", "calming", ("calming",), ("waves", "waves", "pad"),
        (
            ("Low tide at sunset", "The sea was so quiet tonight."),
            ("Sound of the sea to fall asleep to", "Soft waves, warm light."),
            ("Abend am Meer", "Die Sonne geht unter."),
        ),
        ("ocean", "sunset", "waves"), ("let it go", "just the sea"),
    ),
    Subject(
        "lake_night", "calming", ("calming",), ("pad", "wind", "silence"),
        (
            ("Moon over the lake", "Not a sound out here."),
            ("2 am at the water", "Stars in the lake."),
            ("Night swim? No. Just looking.", "The mountains were upside down in the water."),
        ),
        ("moon", "lake", "stars"), ("so still tonight", "good night"),
    ),
    Subject(
        "flashes", "energetic", ("energetic",), ("beat",),
        (
            ("DROP IN 3 2 1", "Turn it up."),
            ("Visuals for tonight's set", "Made for the big screen."),
            ("140 BPM or nothing", "Full volume please."),
        ),
        ("visuals", "dj", "rave"), ("LET'S GO", "LOUDER"),
    ),
    Subject(
        "tunnel", "energetic", ("energetic",), ("beat",),
        (
            ("Warp speed!!", "Hold on to something."),
            ("Hyper tunnel loop", "New loop for the light rig."),
            ("Don't blink", "Faster every time."),
        ),
        ("loop", "speed", "edm"), ("FASTER", "HOLD ON"),
    ),
    Subject(
        "dance", "energetic", ("energetic",), ("beat",),
        (
            ("Floor was SHAKING last night", "Everybody jumped at the same time."),
            ("Crew practice, final run", "Three of us, one beat."),
            ("Fiesta total", "Nadie se queda sentado."),
        ),
        ("dance", "party", "crew"), ("HANDS UP", "ONE MORE TIME"),
    ),
    Subject(
        "bouncing_face", "funny", ("funny",), ("boing",),
        (
            ("Me after one coffee", "Accurate."),
            ("He has no thoughts, only bounce", "Boing."),
            ("My brain in a meeting", "They asked me a question."),
        ),
        ("cartoon", "meme", "animation"), ("boing", "not a single thought", "me at 9 am"),
    ),
    Subject(
        "cat_laser", "funny", ("funny",), ("boing", "ticks"),
        (
            ("Cat vs red dot, round 47", "The dot is winning."),
            ("He really thinks he got it this time", "He did not get it."),
            ("Mein Kater verliert wieder", "Der Punkt ist schneller."),
        ),
        ("cat", "catsofinternet", "pets"), ("he did it again", "so close, sir", "wait for it..."),
    ),
    Subject(
        "banana", "funny", ("funny", "energetic"), ("boing", "beat"),
        (
            ("He walked so confidently", "And then the banana."),
            ("Physics class in five seconds", "Friction: none."),
            ("Who left this here", "Asking for a friend who is on the floor."),
        ),
        ("slapstick", "cartoon", "fail"), ("watch his face", "wait for it...", "10/10 landing"),
    ),
    Subject(
        "bedroom_vlog", "authentic", ("authentic",), ("murmur", "murmur", "none"),
        (
            ("ok so I failed the exam", "No edits, I just wanted to say it out loud."),
            ("Day 100 of learning guitar", "Talking about what went wrong."),
            ("Reading your comments", "One take, sorry about the mess."),
        ),
        ("vlog", "talk", "oneTake"), ("no filter today", "sorry about the mess"),
        (
            "Okay, so, I wasn't going to post this. I failed it, again, and I'm a bit embarrassed, but that's how it is.",
            "I didn't put any make-up on, the room's a mess, and honestly I just wanted to talk to you for a second.",
            "It's day one hundred. I still can't play the F chord, and I nearly gave up on Tuesday, but I'm here.",
        ),
    ),
    Subject(
        "street_selfie", "authentic", ("authentic",), ("murmur", "wind"),
        (
            ("Walking home, thinking out loud", "Bad camera, true story."),
            ("What nobody tells you about moving abroad", "Week three, still lost."),
            ("First day at the new job", "I was so nervous I forgot my lunch."),
        ),
        ("walkandtalk", "diary", "newcity"), ("true story", "I was so nervous"),
        (
            "So I'm walking home and I just have to tell someone, I was so nervous that I forgot my own name.",
            "People think it's all great photos. It's not. I called my mum twice today and cried once.",
        ),
    ),
    Subject(
        "kitchen_table", "authentic", ("authentic",), ("ticks", "murmur"),
        (
            ("Dinner for one, no recipe", "Cutting things badly since 2019."),
            ("What I actually eat on a Wednesday", "Not pretty, but real."),
            ("Cocinando con lo que hay", "Sin receta."),
        ),
        ("cooking", "dinner", "homemade"), ("it's not pretty", "real weekday dinner"),
        ("It's not going to look nice, I'm just hungry and this is what was in the fridge.",),
    ),
    Subject(
        "sunrise_climb", "inspiring", ("inspiring", "calming"), ("swell", "pad"),
        (
            ("One step at a time, all the way up", "It took me four years to get here."),
            ("Summit before breakfast", "They said I would never walk again."),
            ("5 am start", "You can see the flag from the last bend."),
        ),
        ("mountain", "sunrise", "hike"), ("keep going", "one more step", "you can do hard things"),
    ),
    Subject(
        "finish_line", "inspiring", ("inspiring", "energetic"), ("swell", "beat"),
        (
            ("Last place at every race. Until today.", "Never stop."),
            ("My first 10k after the accident", "Two years of training for this second."),
            ("Race day", "Watch the last ten metres."),
        ),
        ("running", "race", "finish"), ("never give up", "two years for this", "she did it!"),
    ),
    Subject(
        "seedling", "inspiring", ("inspiring", "calming"), ("swell", "pad", "none"),
        (
            ("From one seed", "Ninety days in a few seconds. Start small."),
            ("It looked dead in March", "Give it time."),
            ("Time-lapse, windowsill", "Watered daily."),
        ),
        ("timelapse", "garden", "growth"), ("start small", "give it time"),
    ),
    Subject(
        "product", "plain", (), ("silence", "none", "ticks"),
        (
            ("Box 3, all sides", "Dimensions in the comments."),
            ("Turntable test", "Lens check before the shoot."),
            ("New packaging", "Available from Monday."),
        ),
        ("product", "packaging", "studio"), ("18 x 18 x 24 cm", "from Monday"),
    ),
    Subject(
        "how_to", "plain", (), ("ticks", "silence"),
        (
            ("How to reset the router in five steps", "Works for models from 2022 on."),
            ("Export a list as CSV", "Menu, File, Export."),
            ("So stellt man die Uhr um", "Fünf Schritte."),
        ),
        ("howto", "tutorial", "tech"), ("step 2 of 5", "click Export"),
    ),
    Subject(
        "traffic", "plain", (), ("wind", "silence", "none"),
        (
            ("Ring road, camera 12", "Looking north."),
            ("Junction 7 at noon", "Recorded for the survey."),
            ("Traffic count, Tuesday", "Four lanes."),
        ),
        ("traffic", "cam", "city"), ("camera 12", "12:00"),
    ),
)  # fmt: skip
"""All kinds of clips. A clip's attributes are those of its subject."""


@dataclass(frozen=True)
class Shot:
    """A scene from `start_s` on; `seed` decides its colours and positions."""

    scene: str
    start_s: float
    seed: int


@dataclass(frozen=True)
class Caption:
    """Words in the picture between two times."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Clip:
    """Everything about one clip: enough to draw it, to sell it to viewers, and to check what was said about it.

    `width` and `height` are as displayed; `rotation` is by how many degrees a player turns the stored picture.
    """

    video_id: str
    seed: int
    genre: Genre
    suffix: str
    width: int
    height: int
    fps: int
    seconds: float
    rotation: int
    shots: tuple[Shot, ...]
    captions: tuple[Caption, ...]
    sound: Sound
    attributes: tuple[str, ...]
    title: str
    description: str
    hashtags: tuple[str, ...]
    creator_id: str
    published_at: datetime
    language: str
    transcript: str | None
    title_kind: Literal["telling", "neutral", "misleading"]
    hashtags_leak: bool


def _shots(subject: Subject, seconds: float, rng: np.random.Generator) -> tuple[Shot, ...]:
    """Fast cuts for what is energetic, few or none elsewhere; every cut also changes the colours, so that it is one."""
    seed = int(rng.integers(2**31))
    if subject.genre == "energetic":
        scenes = [other.scene for other in SUBJECTS if other.genre == "energetic"]
        first, at = scenes.index(subject.scene), 0.0
        shots: list[Shot] = []
        while at < seconds - 0.4:
            shots.append(Shot(scenes[(first + len(shots)) % len(scenes)], round(at, 3), seed + len(shots)))
            at += float(rng.uniform(0.55, 1.0))
        return tuple(shots)
    pieces = {"funny": 2, "authentic": 2, "plain": 2}.get(subject.genre, 1) if rng.uniform() < 0.4 else 1
    scenes = [other.scene for other in SUBJECTS if other.genre == subject.genre and other.attributes == subject.attributes]
    scenes = [subject.scene] if subject.genre == "plain" else scenes
    starts = [round(seconds * k / pieces, 3) for k in range(pieces)]
    other = scenes[int(rng.integers(len(scenes)))]
    return tuple(Shot(subject.scene if k == 0 else other, start, seed + k) for k, start in enumerate(starts))


def _words(subject: Subject, used: int, rng: np.random.Generator) -> tuple[str, str, Literal["telling", "neutral", "misleading"]]:
    title, description = subject.titles[used % len(subject.titles)]
    if used >= len(subject.titles):
        title = f"{title} (pt. {used // len(subject.titles) + 1})"
    chance = rng.uniform()
    if chance < 0.62:
        return title, description, "telling"
    if chance < 0.9:
        return NEUTRAL_TITLES[int(rng.integers(len(NEUTRAL_TITLES)))], "" if rng.uniform() < 0.6 else description, "neutral"
    misleading = MISLEADING_TITLES[subject.genre]
    return misleading[int(rng.integers(len(misleading)))], "", "misleading"


def _language(title: str, description: str) -> str:
    german, spanish = ("Regen", "Abend", "Kater", "stellt", "Meer"), ("Noche", "Nubes", "Fiesta", "Cocinando")
    text = f"{title} {description}"
    return "de" if any(word in text for word in german) else "es" if any(word in text for word in spanish) else "en"


def plan(count: int, seed: int) -> tuple[Clip, ...]:
    """`count` clips, all genres alike, in an order that tells nothing; the same for the same arguments, on every machine."""
    rng = np.random.default_rng([seed, count])
    by_genre = {genre: [subject for subject in SUBJECTS if subject.genre == genre] for genre in GENRES}
    chosen = []
    for k in rng.permutation(count):
        subjects = by_genre[GENRES[k % len(GENRES)]]
        chosen.append(subjects[k // len(GENRES) % len(subjects)])
    used: dict[str, int] = {}
    clips = []
    for index, subject in enumerate(chosen):
        seconds = round(float(rng.uniform(3.0, 7.5)), 1)
        width, height = [(288, 512), (288, 512), (288, 512), (512, 288), (512, 288), (368, 368)][int(rng.integers(6))]
        title, description, title_kind = _words(subject, used.get(subject.scene, 0), rng)
        used[subject.scene] = used.get(subject.scene, 0) + 1
        leak = bool(subject.attributes) and bool(rng.uniform() < 0.3)
        tags = [str(tag) for tag in rng.permutation(list(subject.hashtags))[: int(rng.integers(0, 3))]]
        tags += [PLAIN_HASHTAGS[int(rng.integers(len(PLAIN_HASHTAGS)))]] if rng.uniform() < 0.6 else []
        tags += [LEAKING_HASHTAGS[subject.attributes[0]][int(rng.integers(2))]] if leak else []
        captions = []
        if rng.uniform() < {"funny": 0.95, "plain": 0.4}.get(subject.genre, 0.6):
            texts = [str(text) for text in rng.permutation(list(subject.captions))[: 1 + int(rng.uniform() < 0.5)]]
            span = (seconds - 0.8) / len(texts)
            captions = [Caption(text, round(0.4 + k * span, 2), round(0.4 + (k + 0.92) * span, 2)) for k, text in enumerate(texts)]
        sound = subject.sounds[int(rng.integers(len(subject.sounds)))]
        transcript = None
        if subject.transcripts and sound == "murmur":
            transcript = subject.transcripts[int(rng.integers(len(subject.transcripts)))]
        creators = CREATORS[subject.genre]
        clips.append(
            Clip(
                video_id=f"sample-{seed}-{index:03d}",
                seed=int(rng.integers(2**31)),
                genre=subject.genre,
                suffix=".webm" if index % 16 == 5 else ".mkv" if index % 16 == 11 else ".mp4",
                width=width,
                height=height,
                fps=int(rng.choice([12, 15])),
                seconds=seconds,
                rotation=90 if index % 16 == 2 else 270 if index % 32 == 9 else 0,
                shots=_shots(subject, seconds, rng),
                captions=tuple(captions),
                sound=sound,
                attributes=subject.attributes,
                title=title,
                description=description,
                hashtags=tuple(dict.fromkeys(tags)),
                creator_id=creators[int(rng.integers(len(creators)))],
                published_at=datetime(2026, 1, 5, tzinfo=UTC) + timedelta(minutes=int(rng.integers(0, 150 * 24 * 60))),
                language=_language(title, description) if rng.uniform() < 0.9 else "",
                transcript=transcript,
                title_kind=title_kind,
                hashtags_leak=leak,
            )
        )
    return tuple(clips)


def ratings(clips: tuple[Clip, ...], seed: int) -> list[tuple[str, str, str, str]]:
    """Three simulated raters on every third clip: rows of video id, attribute, rater id, `true` or `false`.

    The raters see what was planted and err independently, one in 25, one in 15 and one in 10 times.
    """
    rng = np.random.default_rng([seed, len(clips), 3])
    rows = []
    for clip in clips[::3]:
        for attribute in ATTRIBUTES:
            for rater, error in (("rater-1", 0.04), ("rater-2", 0.067), ("rater-3", 0.1)):
                present = (attribute in clip.attributes) != bool(rng.uniform() < error)
                rows.append((clip.video_id, attribute, rater, "true" if present else "false"))
    return rows
