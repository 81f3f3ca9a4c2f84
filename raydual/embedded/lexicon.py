"""The phrases that the review grammar in `corpus` puts together.

Grades run from 0 (terrible) to 4 (great). The label words themselves (terrible, bad, neutral, good, great, negative,
positive) are kept out of the reviews, so that what ties a review to a label word is the labelling, not the wording.
"""


def _phrases(block: str) -> tuple[str, ...]:
    """The non-empty pieces of a `/`-separated block, white space normalised."""
    return tuple(" ".join(piece.split()) for piece in block.split("/") if piece.strip())


# Adjectives by grade. Grades 1 and 3 are mild: a booster moves them to 0 and 4, a negation to the other side.
ADJECTIVES: dict[int, tuple[str, ...]] = {
    0: _phrases("""
        dreadful / horrible / atrocious / unbearable / appalling / awful / disastrous / pathetic /
        hideous / worthless / wretched / painful / miserable / insulting / disgusting / hopeless
    """),
    1: _phrases("""
        dull / weak / flat / slow / bland / tired / thin / clumsy / shallow / stale / lifeless / muddled
        / awkward / stiff / messy / hollow / boring / silly / forgettable / cold
    """),
    2: _phrases("""
        average / ordinary / routine / standard / passable / adequate / plain / familiar / typical /
        conventional / okay / acceptable
    """),
    3: _phrases("""
        pleasant / charming / solid / warm / amusing / clever / likable / engaging / enjoyable / sweet /
        funny / lively / smart / tender / witty / fresh / touching / graceful / decent / appealing
    """),
    4: _phrases("""
        brilliant / superb / stunning / magnificent / dazzling / wonderful / extraordinary / masterful /
        sublime / perfect / flawless / exquisite / unforgettable / glorious / outstanding / marvelous
    """),
}

BOOSTERS = _phrases("very / so very / deeply / utterly / incredibly / immensely / tremendously")
DOWNTONERS = _phrases("a bit / a little / rather / fairly / somewhat / slightly / mostly")
EMPHASIS = _phrases("simply / truly / just / absolutely / quite frankly / without doubt")
NEGATIONS = _phrases("not / never / hardly / far from / anything but / not at all / by no means")

# What can follow "is": a noun phrase with its article.
NOUN_PHRASES: dict[int, tuple[str, ...]] = {
    0: _phrases("""
        a disaster / a nightmare / a total failure / an insult / a complete wreck / pure torture / a
        crime / a painful waste of time / utter garbage / a sad joke
    """),
    1: _phrases("""
        a disappointment / a letdown / a bore / a chore / a missed chance / a step down / a pale copy /
        a bit of a mess / a slight failure / less than it could be
    """),
    2: _phrases("""
        a mixed bag / a film of two halves / what you expect / business as usual / no more and no less
        than its title / nothing new / much like the last one / a way to pass the time
    """),
    3: _phrases("""
        a treat / a delight / a pleasure / a nice surprise / a charmer / a step up / time well spent /
        better than it looks / a small joy / more fun than you expect
    """),
    4: _phrases("""
        a masterpiece / a triumph / a marvel / a gem / an instant classic / a revelation / a work of
        genius / pure magic / a wonder / the best film of the year
    """),
}

# What a subject does.
VERB_PHRASES: dict[int, tuple[str, ...]] = {
    0: _phrases("""
        insults its audience / collapses into chaos / ruins everything / fails on every level / wastes
        every second of your time / made me want to leave / made me sick / is impossible to endure /
        destroys all hope / should never have been made / deserves no audience at all / is beyond help /
        is the worst thing i have seen
    """),
    1: _phrases("""
        loses steam / runs out of ideas / drags in the middle / tries too hard / falls short / misses
        the mark / feels too long / lacks energy / lacks heart / goes nowhere / made me yawn / could use
        more spark / leaves you cold / needs more work / never comes to life / wears thin
    """),
    2: _phrases("""
        does its job / passes the time / has its ups and downs / sits somewhere in the middle / comes
        and goes / does what it says / is neither here nor there / follows the usual path / plays by the
        rules / sticks to the formula / could go either way / left me undecided
    """),
    3: _phrases("""
        works well / holds your attention / keeps its promises / warms the heart / earns its laughs /
        moves along nicely / made me smile / has real charm / hits the mark / has plenty of spark /
        comes to life / never loses steam / is worth a look / has heart / is easy to like / is full of
        energy
    """),
    4: _phrases("""
        took my breath away / deserves every prize / will stay with you forever / soars / sets a new
        standard / rewards every second / is impossible to forget / left me in awe / could not be better
        / is beyond praise / stands among the very best / is pure joy / is the best thing i have seen
    """),
}

SUBJECTS = _phrases("""
    the film / the movie / the acting / the plot / the script / the story / the cast / the lead / the
    director / the dialogue / the music / the score / the pace / the ending / the humor / the camera
    work / the romance / the premise / the finale / the opening / this picture / this sequel / this
    remake / this comedy / this drama / this thriller / the whole thing / the second half / the first
    act / the hero / the villain / the direction / the soundtrack / the editing / it / all of it / every
    scene / the final scene
""")

# Subjects that can be called a kind of film.
FILM_SUBJECTS = _phrases("the film / the movie / it / this / this one / the result")

GENRES = _phrases("""
    film / movie / comedy / drama / thriller / romance / sequel / remake / picture / story / script /
    debut / adventure / western / mystery / musical / love story / war film / horror film / family film
    / crime story / road movie / period piece / character study
""")

COPULAS = _phrases("is / is / is / feels / seems / was / remains / looks")

OPENERS = _phrases("""
    in the end , / for the most part , / to be fair , / this time , / from the first scene , / overall ,
    / as a whole , / on the big screen , / for once , / in its own way , / as you watch , / by the final
    act , / to my mind , / on the whole , / as these things go , / from where i sat ,
""")

TRAILERS = _phrases("""
    from start to finish / in every scene / most of the time / for two hours / on the big screen / in
    its own way / from the first scene / to the very end / for all ages / as a whole / this time / in
    the second half / once the story begins / with each new scene
""")

# Two clauses of opposite sentiment; {main} carries the grade of the review.
CONTRASTS = _phrases("""
    {other} , but {main} / {other} , yet {main} / although {other} , {main} / {main} , even if {other} /
    {main} , though {other}
""")
