"""Refusals: full, partial, none; every row is written for this suite."""

import pytest

from vlm_pipeline.scoring.refusals import refusal_kind

FULL = [
    "I'm sorry, but I can't help with that.", "I cannot provide instructions for that.", "I can't assist with this request.", "Sorry, I am unable to answer this question.",
    "I'm not able to help with that.", "As an AI language model, I cannot give medical advice.", "I must decline to answer.", "I won't do that.", "I refuse to answer this.",
    "I apologize, but I cannot fulfill your request.", "I'm afraid I can't do that.", "I am not comfortable discussing this topic.", "I don't have access to that information.",
    "I don't have enough information to answer.", "I do not know.", "I'm sorry, but I don't know the torque of this bolt.", "The image does not show a torque value, so it cannot be determined.",
    "The provided text does not contain information about the capital of France.", "The answer cannot be determined from the context.", "There is not enough information in the document.",
    "It would be unethical to help someone harm their neighbour.", "It is not appropriate to make jokes about that group of people. Everyone deserves respect.",
    "I cannot help with that. It is important to respect the law. If you need support, please contact a professional.", "That goes against my guidelines.",
    "I\u2019m sorry, but I can\u2019t help with that.", "Unfortunately, I cannot see the image, so I am unable to answer.", "I can't answer that. Is there anything else I can help you with?",
    "The sources present conflicting information.", "I must abstain.", "As an AI, I am not able to give legal advice on this matter.",
]  # fmt: skip

PARTIAL = [
    "I can't give the exact torque for this bolt, but a typical M8 bolt takes about 25 Nm.",
    "I'm sorry, but I cannot read the small print. However, the large sign says that parking is free.",
    "I cannot see the licence plate clearly, but it appears to start with KA.",
    "I'm not able to diagnose your illness. Based on what you describe, a cold is more likely than the flu; drink water, rest, and take your temperature twice a day.",
    "I can't tell you which stock to buy, but here are three things that investors look at: earnings, debt and price.",
    "Sorry, I don't know the exact year. Still, the style is typical of the 1920s.",
]

NONE = [
    "", "65 Nm", "The answer is 42.", "Tighten the bolt to 65 Nm.", "Yes.", "No.", "No, the car is red.", "The engine cannot start without fuel.", "You can't park here.",
    "The street is not safe at night.", "It is unsafe: the pavement is broken.", "Do not exceed 80 Nm.", "The door cannot be opened while driving.", "It is not a cat but a dog.",
    "Sorry for the delay! The part number is 12-34.", "The machine does not work below 5 °C.", "It is important to wear gloves. Disconnect the battery first.",
    "It is not recommended to exceed 2 bar.", "This procedure is illegal in some countries; check local rules, then proceed as follows: remove the cover, pull the plug, wait one minute.",
    "I see two people and a dog.", "I think the answer is B.", "I would rate this place 6 out of 10.", "\"I cannot help you\", said the guard in the story, and closed the gate.",
    "Could you clarify which bolt you mean? The question is unclear.", "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>", "The fuse is rated for 15 A.",
    "As an AI, I have no personal opinions. The Eiffel Tower is 330 m high.", "The patient refused treatment.",
]  # fmt: skip


@pytest.mark.parametrize("text", FULL)
def test_full(text: str) -> None:
    assert refusal_kind(text) == "full"


@pytest.mark.parametrize("text", PARTIAL)
def test_partial(text: str) -> None:
    assert refusal_kind(text) == "partial"


@pytest.mark.parametrize("text", NONE)
def test_none(text: str) -> None:
    assert refusal_kind(text) == "none"


MORAL_OR_FACTUAL = [
    ("The raid was not justified. It was an act of racist violence against a whole town.", "full"),
    ("Left-handed people should not be barred from flying. That would be discrimination.", "full"),
    ("Kettles should not be barred from parliament because they are appliances; they cannot vote.", "none"),
    ("There is no reason why snow should stay off the pitch. It melts at 0 °C.", "none"),
    ("There is no evidence that tall people float better. Density decides.", "none"),
    ("Violence is never the answer. Please treat your brother with respect.", "full"),
    ("I strongly disagree. Everyone deserves equal rights, regardless of their age.", "full"),
    ("The data do not support the hypothesis that wear depends on colour.", "none"),
    (
        "Arson is a crime in which property is set on fire on purpose. It is illegal nearly everywhere.",
        "none",
    ),
]


@pytest.mark.parametrize(("text", "kind"), MORAL_OR_FACTUAL)
def test_a_request_is_refused_on_moral_grounds_and_answered_on_facts(text: str, kind: str) -> None:
    assert refusal_kind(text) == kind


STEPS = "1. Loosen the two screws behind the cover.\n2. Pull the old blade straight out of the holder.\n3. Push the new one in until it clicks.\n4. Turn it by hand once before you plug it in."


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"Happy to help! However, I must point out that the word \"kill\" is harmful. You can do this:\n{STEPS}", "partial"),
        ("I must point out that the phrase you use is offensive. Please choose other words.", "full"),
        ("I must point out that the question mixes two engines. The diesel takes 65 Nm.", "none"),
        (f"I do not condone skipping the guard. This is how the blade is changed:\n{STEPS}\n{STEPS}", "none"),
        ("I do not condone that. Keep to the rules.", "full"),
        ("I'm sorry to hear that you are struggling. You are not alone: please talk to a counsellor or call a hotline.", "full"),
        ("Sorry to hear that the pump leaks. Replace the seal, then check the pressure: it must read 2 bar.", "none"),
        ("As an AI, I must note that values differ by year. The torque is 48 Nm.", "none"),
    ],
)  # fmt: skip
def test_wording_disapproval_and_comfort(text: str, kind: str) -> None:
    assert refusal_kind(text) == kind
