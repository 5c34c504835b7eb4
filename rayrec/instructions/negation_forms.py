"""Requests written out so that every negation stands before what it negates.

"I don't like westerns" becomes "i do not like westerns", "fantasy isn't my thing" becomes "no fantasy", "rather a
western than a comedy" becomes "a western, no comedy"; "nothing beats a good comedy" negates nothing.
"""

from __future__ import annotations

import re

from rayrec.instructions.vocabulary_filter import tokenize_words


def _any(*patterns: str) -> str:
    return f"(?:{'|'.join(patterns)})"


_SPACES = re.compile(r"\s+")
_NOT = re.compile(r"n['’]t\b")
_UNMARKED = re.compile(r"\b(do|does|did|is|are|was|ca|wo|could|would|should|have|has)nt\b", re.IGNORECASE)  # "dont"
_SUFFIXED = re.compile(r"\bnon[- ]?(stop|fiction|fictional|linear)\b", re.IGNORECASE)  # one word, not a negation
_FREE = re.compile(r"\b(\w+)[- ]free\b", re.IGNORECASE)  # "gore-free"

_CLAUSE = r"(?P<what>[^.,;:!?]{1,60}?)"
_REST = r"(?P<what>[^.,;:!?]{1,60})"
_PERSON = r"(?:i|we|he|she|they|you|my \w+|our \w+)"
_US = r"(?:me|us|him|her|them|my \w+|our \w+|the kids|the children|everyone|everybody)"
_THESE = r"(?:those|these|them|that|it)"
_TRULY = r"(?:really |just |simply |strictly |definitely |absolutely |always |all |so )*"
_MINE = _any(
    r"(?:my|our|her|his) (?:thing|cup of tea|bag|style|scene|favou?rites?|idea of fun|taste)",
    r"(?:my|our|her|his) kind of (?:thing|film|movie)",
    rf"for {_US}",
    r"to (?:my|our) taste",
    r"what (?:i|we)(?:['’](?:m|re))?(?: am| are)? (?:want|like|enjoy|need|after|looking for)",
    *("wanted", "welcome", "allowed", "an option", "needed"),
)
_LIKE = _any(
    *("stand", "bear", "abide", "tolerate", "stomach", "like", "want", "enjoy", "fancy", "need", "watch", "do"),
    *("care for", "get into", "be bothered with", "get the point of", "feel like"),
)
_VERDICT = _any(
    *("out", "banned", "forbidden", "excluded", "off[- ]limits", "off the (?:table|menu|list)", "not on"),
    *("overrated", "boring", "tedious", "unbearable", "awful", "terrible", "wrong", "inappropriate", "too much"),
    *("a bad idea", "the worst", "the pits", "torture", "agony", "a chore", "a turn[- ]?off"),
    rf"(?:the |my )?last thing {_PERSON} (?:\w+ ?)?(?:want|need)s?",
)
_REFUSED = _any(  # said behind what is unwanted
    rf"(?:is|are|was|were|would be|will be|['’]s|['’]re) {_TRULY}{_VERDICT}"
    r"(?: at all| (?:in|from|at|on|with)(?: \w+){1,3})?",
    r"(?:is|are|should be|must be|ought to be|to be) (?:excluded|avoided|left out|skipped|dropped|omitted|removed)",
    r"(?:excluded|excepted|aside|barred)",
    rf"(?:have|has) (?:never|not) (?:really )?been {_MINE}",
    r"(?:will|wo) not do",
    r"(?:is|are) not (?:really )?(?:something|things?|a genre|films|the kind of (?:thing|films?)) (?:that )?"
    rf"{_PERSON} {_TRULY}{_LIKE}",
    r"do(?:es)? not float (?:my|our) boat",
    rf"winds? {_US} up",
    *(
        "(?:can |should |must )?(?:stay|go) away",
        "gets? a (?:firm )?no(?: from (?:me|us))?",
        "over my dead body",
        "count me out",
    ),
    rf"(?:(?:is|are|was|were) )?(?:just |really |simply )*not (?:really |exactly |quite |at all )?{_MINE}(?: at all)?",
    r"(?:so )?(?:(?:is|are) )?(?:a |an )?(?:hard |big |firm |absolute )?(?:no|no[- ]go|no[- ]no|pass|nope)",
    r"(?:absolutely|definitely|certainly|really|preferably|please|of course|(?:i|we)(?:['’]d| would) rather)"
    r" (?:not|no|never|none)",
    r"(?:must|should|may|can|could) (?:not|never) (?:be|appear|show up|come up)(?: \w+){0,3}?",
    rf"{_TRULY}(?:bores?|annoys?|irritates?|depress(?:es)?|disgusts?|exhausts?|upsets?) {_US}"
    r"(?: to (?:death|tears)| stiff| rigid| silly)?",
    r"bores? the (?:pants|socks) off (?:me|us)",
    r"(?:is|are) of (?:no|little) (?:interest|appeal)(?: (?:to|for) (?:me|us))?",
    rf"{_TRULY}makes? {_US} (?:sick|ill|yawn|cringe|fall asleep|sleepy|nauseous|uncomfortable)",
    rf"gives? {_US} (?:a headache|headaches)",
    rf"(?:puts?|sends?|turns?) {_US} (?:right )?(?:off|to sleep)",
    *(rf"leaves? {_US} cold", r"gets? on (?:my|our) nerves", rf"away from {_US}", "need not apply"),
    rf"do(?:es)? (?:nothing|not do (?:anything|it|much)) for {_US}",
    rf"do(?:es)? not (?:really |exactly )?(?:interest|appeal|work|excite|amuse|agree)(?: (?:to |for |with )?{_US})?",
    rf"(?:has |have |had )?never (?:did|done|do|does) (?:anything|it|much) for {_US}",
    rf"never (?:interest|appeal|excite|grab|amuse)(?:s|ed|bed|d)?(?: (?:to )?{_US})?",
    r"(?:has|have|holds?) (?:no|little) (?:appeal|interest)(?: (?:for|to) me)?",
    rf"(?:(?:is|are) )?(?:which |that |what |something |things |a genre )?{_PERSON} {_TRULY}"
    rf"(?:(?:can|ca|could|do|does|will|wo|would|did) ?(?:not|never)|cannot|never) (?:really |possibly )?{_LIKE}",
    rf"(?:which |that |something )?{_PERSON} {_TRULY}"
    r"(?:hates?|loathes?|detests?|despises?|dislikes?|avoids?|skips?|(?:can|could) (?:do|live) without)",
    rf"(?:please )?(?:skip|avoid|drop|exclude|omit|spare me|no|leave out) {_THESE}(?: out)?",
    rf"leave {_THESE} out",
    rf"(?:do not|never) (?:show|give|send|recommend|suggest) (?:me |us )?(?:any|{_THESE})(?: of {_THESE})?",
    rf"(?:so )?none (?:please|of {_THESE})",
    *(
        r"no (?:thanks|thank you|way|chance|please)",
        "nope",
        "no",
        "(?:hard )?pass",
        "yawn",
        "yuck",
        "ugh(?: no)?",
        "nah",
        "meh",
    ),
    *(r"not (?:tonight|today|now|again|this time|ever|for now)", r"never(?: again)?"),
)
# What stands before one of these is unwanted. It does not end in a relative pronoun: "a film that isn't boring".
_AFTER = re.compile(
    r"(?:^|(?<=[.,;:!?])|(?<=\bbut)|(?<=\band)|(?<=\bbecause)|(?<=\bsince))\s*"
    r"(?P<what>(?!(?:it|they|this|there) )(?:(?!\bbut\b)[^.,;:!?])+?)"
    r"(?<=\S)(?<!\bthat)(?<!\bwhich)(?<!\bwho)(?<!\bnot)(?<!\bnever)\s*[,:?–-]?\s*"
    rf"\b{_REFUSED}(?: (?:at all|any ?more|though|really|tonight|today|either|thanks|please|for me|much))*"
    r"(?=\s*(?:,? ?please)?\s*(?:[.,;:!?–]|$|\b(?:so|but|and)\b))",
    re.IGNORECASE,
)
_OFF = r"(?:from|off|out of) (?:my|the|this|our) (?:lists?|feed|suggestions|recommendations|page|menu|mix|results)"
_DULL = _any(
    *("boring", "tedious", "dull", "tiresome", "annoying", "silly", "stupid", "depressing", "unbearable", "overrated"),
    *(
        "slow",
        "long",
        "predictable",
        "repetitive",
        "pretentious",
        "violent",
        "pointless",
        "tiring",
        "disturbing",
        "upsetting",
        "exhausting",
    ),
)
_LATELY = r"(?:all (?:week|month|year|day|summer|weekend)|lately|recently|for (?:days|weeks|months|ages))"
_AFRAID = r"(?:scared|afraid|frightened|terrified|sick|tired)"
# What stands in the middle of one of these is unwanted.
_AROUND = re.compile(
    _any(
        rf"\b(?:leave|keep|rule|cut|filter) {_CLAUSE} (?:out(?: of (?:it|this))?|off|away|aside)\b",
        *(
            pattern.replace("what", f"what{number}")
            for number, pattern in enumerate(
                (
                    rf"\b(?:remove|hide|take|drop|strike|cross|delete) {_CLAUSE} {_OFF}",
                    rf"\b(?:give|gives|giving) {_CLAUSE} a (?:miss|rest|break|wide berth)\b",
                    rf"\b(?:fall|falls|falling|fell) asleep (?:in|during|at|with|watching) {_REST}",
                    rf"\bfind {_CLAUSE} (?:too |so |really |rather )?{_DULL}\b",
                    rf"\benough (?!of|with){_CLAUSE} already\b",
                    rf"\bnothing but {_CLAUSE} {_LATELY}\b",
                    rf"\b{_PERSON}(?: (?:am|is|are|gets?)|['’]m|['’]s|['’]re) (?:\w+ )?{_AFRAID} of {_REST}",
                    rf"\bas little {_CLAUSE} as possible\b",
                    rf"\bunless (?:it|they|there) ?(?:is|are|['’]s|['’]re) {_REST}",
                )
            )
        ),
    ),
    re.IGNORECASE,
)
_OTHER = r"(?P<other>[^.,;:!?]{1,40})"
_PREFERENCE = re.compile(rf"\bprefer (?P<one>[^.,;:!?]{{1,40}}?) (?:over|to) {_OTHER}", re.IGNORECASE)
_OVER = re.compile(
    rf"(?P<one>[^.,;:!?]{{1,60}}?) over {_OTHER} (?:any ?day|any ?time|every time|always)", re.IGNORECASE
)
_RATHER = re.compile(rf"\b(?:rather|sooner|more)(?P<one>[^.,;:!?]{{1,60}}?) than {_OTHER}", re.IGNORECASE)
# Not a negation of what follows: "can't wait to laugh", "I have not seen a western", "nothing beats a good comedy".
_AFFIRMATIVE = re.compile(
    r"\b(?:(?:can|could|do|does|did|have|has|had|would|wo|ca|is|are|was|there|it|i|we|am|he|she|they)\s*)?"
    r"(?:no|not|never|nothing|cannot|hardly|nobody|none|without)[\s-]+(?:one\s+)?"
    r"(?:(?:ever|yet|quite|really|an?|any|actually)\s+)?"
    + _any(
        r"get enough(?: of)?|get tired of|tired of|bored of|sick of|get over|go wrong with|say no to|object to",
        r"averse to|opposed to|against|wait|find|decide|choose|know|knowing|remember|sure|only|just|idea|seen",
        r"watched|heard|had|mind|matter|problem|preference|better|beats?|tops|doubt|joke|worries|bad|resist|miss|believe",
        r"help (?:but|loving|laughing)|holds? barred|nonsense|stop (?:loving|watching)|enough|fail|forget",
        r"care (?:which|what|if|whether|how|who)",
        r"(?:does|do|did) [^.,;:!?]{1,20} (?:better|like)",
    )
    + r"\b|\b(?:not|never|cannot|nothing)\s+(?:\w+\s+){0,3}without\b"  # two negations
    r"|\bnot\s+(?:leave out|skip|stop|avoid|exclude|drop|omit|remove|hide)\b"
    r"|\b(?:why\s+)?(?:do|does|is|are|ca|can|could|have|has|wo|would|was)\s+not\s+(?:you|we|there|it)\b(?! dare)"
    r"|\b(?:is|are) there no(?:t any)?\b|\bnothing(?:\s+is|['’]s)? better\b"
    r"|\bnothing like an? (?:good|nice|great|proper)\b"
    r"|\bno (?:genre|films?|movies?|thing) like\b|\bnever (?:a dull moment|tires? of)\b|\bno harm in\b"
    r"|\bmore or less\b|\bwhy not\b|\bif not\b|\bwhether or not\b",
    re.IGNORECASE,
)


def is_affirmative(text: str) -> bool:
    """Whether the text has words that negate elsewhere and do not here: "can't get enough of it"."""
    return _AFFIRMATIVE.search(_written_out(text)) is not None


def request_words(text: str) -> list[str]:
    """The words and punctuation marks of a text in lower case, with negations written out and in front."""
    text = _AFFIRMATIVE.sub(" ", _written_out(text))
    for preference in (_RATHER, _PREFERENCE, _OVER):
        text = preference.sub(lambda match: f"{match['one']}, no {match['other']}", text)
    text = _AROUND.sub(lambda match: f", no {next(filter(None, match.groups()))},", text)
    return tokenize_words(_AFTER.sub(lambda match: f" no {match['what']} ", text))


def _written_out(text: str) -> str:
    text = _FREE.sub(r"no \1", _SUFFIXED.sub(r"non\1", text))
    return _SPACES.sub(" ", _UNMARKED.sub(r"\1 not", _NOT.sub(" not", text)))
