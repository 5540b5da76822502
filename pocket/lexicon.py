"""The words of the pocket world: one Tamil equivalent for each English word, and the reverse.

Every table is explicit data. A form that a rule would get wrong (வீடு → வீட்டு, பசு → பசுவ், கல் → கற்கள்)
is written beside its word; `pocket.grammar` derives only what is regular from these.

Marks used in the Tamil columns: a trailing ``^`` says that a following க ச த ப doubles onto this word
(அந்த^ + பெண் → அந்தப் பெண்); ``_`` stands for a space inside a multi-word entry; a trailing pulli in an
oblique stem (பசுவ்) or a verb stem (வருகிற்) waits for a vowel.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Noun:
    """A noun: English singular and plural, Tamil nominatives, oblique stem, gender (m f h n), group.

    `gender` is what a Tamil verb agrees with: m -ஆன், f -ஆள், h honorific -ஆர், n -அது; `human` decides
    the plural (-ஆர்கள் or -அன), because குழந்தை is neuter in the singular only.
    """

    en: str
    en_plural: str
    ta: str
    ta_plural: str
    oblique: str
    gender: str
    group: str
    preposition: str = "in"

    @property
    def human(self) -> bool:
        return self.group in ("human", "kin", "name")


@dataclass(frozen=True)
class Verb:
    """A verb: English base and past; five Tamil principal parts; who does it (h, a, b); what to."""

    en: str
    past: str
    participle: str  # வந்து
    present: str  # வருகிற்
    future: str  # வருவ்
    neuter_future: str  # வரும்
    infinitive: str  # வர
    subjects: str = "h"
    objects: tuple[str, ...] = ()
    instruments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Adjective:
    """An adjective: attributive form, predicate forms before இரு ("" = attributive only), noun groups."""

    en: str
    ta: str
    predicate: str
    predicate_plural: str  # differs where the word is a noun: ஏழையாக, ஏழைகளாக
    groups: frozenset[str]


@dataclass(frozen=True)
class Pronoun:
    """A personal pronoun with its forms in both languages; `agreement` is the Tamil verb slot."""

    en: str
    en_object: str
    en_possessive: str
    agreement: str
    ta: str
    base: str  # what vowel suffixes attach to: என்ன் → என்னை
    dative: str
    possessive: str


def _rows(table: str) -> list[list[str]]:
    return [line.split() for line in table.strip().splitlines()]


# english[/plural]  tamil  [pl=TAMIL PLURAL] [ob=OBLIQUE STEM] [g=GENDER] [prep=PREPOSITION]
_NOUNS = {
    "human": """
        boy சிறுவன் pl=சிறுவர்கள் g=m
        girl சிறுமி g=f
        man/men மனிதன் pl=மனிதர்கள் g=m
        woman/women பெண் g=f
        child/children குழந்தை g=n
        thief/thieves திருடன் pl=திருடர்கள் g=m
        king அரசன் pl=அரசர்கள் g=m
        queen அரசி g=f
        teacher ஆசிரியர்
        doctor மருத்துவர்
        farmer விவசாயி
        student மாணவர்
        worker தொழிலாளி pl=தொழிலாளர்கள்
        fisherman/fishermen மீனவர்
        singer பாடகர்
        writer எழுத்தாளர்
        merchant வணிகர்
        nurse செவிலியர்
        guest விருந்தினர்
        poet கவிஞர்
        engineer பொறியாளர்
        lawyer வழக்கறிஞர்
        painter ஓவியர்
        driver ஓட்டுநர்
        friend நண்பர்
    """,
    "kin": """
        mother அம்மா pl=அம்மாக்கள்
        father அப்பா pl=அப்பாக்கள்
        grandfather தாத்தா pl=தாத்தாக்கள்
        grandmother பாட்டி
        brother சகோதரன் pl=சகோதரர்கள் g=m
        sister சகோதரி g=f
        son மகன் pl=மகன்கள் g=m
        daughter மகள் g=f
        uncle மாமா pl=மாமாக்கள்
        aunt அத்தை
    """,
    "animal": """
        dog நாய்
        cat பூனை
        cow பசு ob=பசுவ் pl=பசுக்கள்
        goat ஆடு ob=ஆட்டு
        horse குதிரை
        elephant யானை
        monkey குரங்கு
        lion சிங்கம்
        tiger புலி
        snake பாம்பு
        rabbit முயல்
        fox/foxes நரி
        frog தவளை
        mouse/mice எலி
        squirrel அணில்
        bear கரடி
        donkey கழுதை
        camel ஒட்டகம்
        turtle ஆமை
    """,
    "bird": """
        bird பறவை
        crow காகம்
        parrot கிளி
        peacock மயில்
        hen கோழி
        duck வாத்து
        pigeon புறா pl=புறாக்கள்
        owl ஆந்தை
    """,
    "fruit": """
        apple ஆப்பிள்
        mango/mangoes மாம்பழம்
        banana வாழைப்பழம்
        fruit பழம்
    """,
    "produce": """
        coconut தேங்காய்
        egg முட்டை
        vegetable காய்கறி
        cake கேக் ob=கேக்க் pl=கேக்குகள்
    """,
    "food": """
        rice சோறு ob=சோற்று
        bread ரொட்டி
        fish மீன்
        meat இறைச்சி
        butter வெண்ணெய்
        honey தேன்
        sugar சர்க்கரை
        salt உப்பு
    """,
    "drink": """
        water தண்ணீர்
        milk பால்
        tea தேநீர்
        coffee காபி
        juice பழச்சாறு ob=பழச்சாற்று
    """,
    "text": """
        book புத்தகம்
        letter கடிதம்
        newspaper செய்தித்தாள்
    """,
    "tale": """
        story/stories கதை
        poem கவிதை
        song பாடல்
    """,
    "image": """
        picture படம்
        map வரைபடம்
    """,
    "opening": """
        door கதவு
        window ஜன்னல்
    """,
    "container": """
        box/boxes பெட்டி
        bag பை
        basket கூடை
        bucket வாளி
    """,
    "furniture": """
        table மேசை
        chair நாற்காலி
        bed கட்டில்
        mat பாய்
    """,
    "dish": """
        pot பானை
        plate தட்டு
        cup கோப்பை
        spoon கரண்டி
    """,
    "tool": """
        knife/knives கத்தி
        hammer சுத்தியல்
        pen பேனா pl=பேனாக்கள்
        pencil பென்சில்
        brush/brushes தூரிகை
    """,
    "goods": """
        key சாவி
        lamp விளக்கு
        clock கடிகாரம்
        mirror கண்ணாடி
        rope கயிறு ob=கயிற்று
        umbrella குடை
        ball பந்து
        toy பொம்மை
        drum மேளம்
        flute புல்லாங்குழல்
        computer கணினி
        gift பரிசு
        stone கல் pl=கற்கள்
        coin நாணயம்
        ladder ஏணி
        pillow தலையணை
        blanket போர்வை
        statue சிலை
    """,
    "clothes": """
        shirt சட்டை
        saree சேலை
        hat தொப்பி
        shoe காலணி
        ring மோதிரம்
        shawl சால்வை
    """,
    "vehicle": """
        car கார்
        bus/buses பேருந்து
        train ரயில்
        boat படகு
        bicycle மிதிவண்டி
        cart வண்டி
        ship கப்பல்
    """,
    "plant": """
        tree மரம்
        flower பூ pl=பூக்கள்
        plant செடி
        leaf/leaves இலை
    """,
    "place": """
        house வீடு ob=வீட்டு
        garden தோட்டம்
        village கிராமம்
        city/cities நகரம்
        forest காடு ob=காட்டு
        field வயல்
        market சந்தை prep=at
        shop கடை prep=at
        school பள்ளி prep=at
        hospital மருத்துவமனை prep=at
        temple கோவில் prep=at
        library/libraries நூலகம்
        office அலுவலகம் prep=at
        kitchen சமையலறை
        room அறை
        park பூங்கா pl=பூங்காக்கள்
        beach/beaches கடற்கரை prep=at
        station நிலையம் prep=at
        street தெரு ob=தெருவ் pl=தெருக்கள்
        road சாலை prep=on
        bridge பாலம் prep=on
        palace அரண்மனை
        college கல்லூரி prep=at
        factory/factories தொழிற்சாலை prep=at
        bank வங்கி prep=at
        island தீவு prep=on
        mountain மலை prep=on
    """,
    "water": """
        river நதி
        lake ஏரி
        pond குளம்
        sea கடல்
    """,
}

# english  tamil  gender; a name's stem takes the suffixes of any noun (ரவி → ரவியை, மீனா → மீனாவை)
_NAMES = """
    Ravi ரவி m
    Kumar குமார் m
    Kannan கண்ணன் m
    Arun அருண் m
    Murugan முருகன் m
    Senthil செந்தில் m
    Velan வேலன் m
    Ganesan கணேசன் m
    Meena மீனா f
    Latha லதா f
    Selvi செல்வி f
    Priya பிரியா f
    Kamala கமலா f
    Anitha அனிதா f
    Valli வள்ளி f
    Geetha கீதா f
"""

PRONOUNS = [
    Pronoun("I", "me", "my", "1s", "நான்", "என்ன்", "எனக்கு", "என்"),
    Pronoun("we", "us", "our", "1p", "நாங்கள்", "எங்கள்", "எங்களுக்கு", "எங்கள்"),
    Pronoun("you", "you", "your", "2p", "நீங்கள்", "உங்கள்", "உங்களுக்கு", "உங்கள்"),
    Pronoun("he", "him", "his", "3m", "அவன்", "அவன்", "அவனுக்கு", "அவனுடைய"),
    Pronoun("she", "her", "her", "3f", "அவள்", "அவள்", "அவளுக்கு", "அவளுடைய"),
    Pronoun("they", "them", "their", "3p", "அவர்கள்", "அவர்கள்", "அவர்களுக்கு", "அவர்களுடைய"),
]

# english past | participle present future neuter-future infinitive | subjects | object groups | instruments
# subjects: h human, a animal, b both. A group "x" that is a single noun names that noun.
_VERBS = """
    eat ate | சாப்பிட்டு சாப்பிடுகிற் சாப்பிடுவ் சாப்பிடும் சாப்பிட | b | fruit produce food |
    drink drank | குடித்து குடிக்கிற் குடிப்ப் குடிக்கும் குடிக்க | b | drink |
    see saw | பார்த்து பார்க்கிற் பார்ப்ப் பார்க்கும் பார்க்க | b | human animal bird plant vehicle |
    buy bought | வாங்கி வாங்குகிற் வாங்குவ் வாங்கும் வாங்க | h | fruit produce food goods clothes vehicle tool text |
    sell sold | விற்று விற்கிற் விற்ப் விற்கும் விற்க | h | fruit produce food goods clothes vehicle dish furniture |
    read read | படித்து படிக்கிற் படிப்ப் படிக்கும் படிக்க | h | text story poem |
    write wrote | எழுதி எழுதுகிற் எழுதுவ் எழுதும் எழுத | h | letter book tale | pen pencil
    draw drew | வரைந்து வரைகிற் வரைவ் வரையும் வரைய | h | image | pencil brush pen
    hear heard | கேட்டு கேட்கிற் கேட்ப் கேட்கும் கேட்க | h | tale |
    bring brought | கொண்டுவந்து கொண்டுவருகிற் கொண்டுவருவ் கொண்டுவரும் கொண்டுவர | h | fruit produce food drink goods |
    take took | எடுத்து எடுக்கிற் எடுப்ப் எடுக்கும் எடுக்க | h | goods tool container clothes text |
    open opened | திறந்து திறக்கிற் திறப்ப் திறக்கும் திறக்க | h | opening box bag | key
    close closed | மூடி மூடுகிற் மூடுவ் மூடும் மூட | h | opening box bag |
    wash washed | கழுவி கழுவுகிற் கழுவுவ் கழுவும் கழுவ | h | dish fruit vegetable car bus |
    cut cut | வெட்டி வெட்டுகிற் வெட்டுவ் வெட்டும் வெட்ட | h | fruit tree plant rope | knife
    cook cooked | சமைத்து சமைக்கிற் சமைப்ப் சமைக்கும் சமைக்க | h | rice fish meat vegetable egg |
    make made | செய்து செய்கிற் செய்வ் செய்யும் செய்ய | h | toy cake statue furniture drum |
    break broke | உடைத்து உடைக்கிற் உடைப்ப் உடைக்கும் உடைக்க | h | dish opening mirror toy coconut | hammer stone
    carry carried | சுமந்து சுமக்கிற் சுமப்ப் சுமக்கும் சுமக்க | h | container furniture goods |
    throw threw | எறிந்து எறிகிற் எறிவ் எறியும் எறிய | h | ball stone shoe coin fruit |
    catch caught | பிடித்து பிடிக்கிற் பிடிப்ப் பிடிக்கும் பிடிக்க | b | animal bird thief |
    find found | கண்டுபிடித்து கண்டுபிடிக்கிற் கண்டுபிடிப்ப் கண்டுபிடிக்கும் கண்டுபிடிக்க | h | goods tool clothes animal |
    lose lost | தொலைத்து தொலைக்கிற் தொலைப்ப் தொலைக்கும் தொலைக்க | h | goods tool clothes text |
    help helped | உதவி உதவுகிற் உதவுவ் உதவும் உதவ | h | human kin :dat |
    call called | அழைத்து அழைக்கிற் அழைப்ப் அழைக்கும் அழைக்க | h | human kin dog |
    love loved | நேசித்து நேசிக்கிற் நேசிப்ப் நேசிக்கும் நேசிக்க | h | human kin animal bird |
    meet met | சந்தித்து சந்திக்கிற் சந்திப்ப் சந்திக்கும் சந்திக்க | h | human kin |
    praise praised | பாராட்டி பாராட்டுகிற் பாராட்டுவ் பாராட்டும் பாராட்ட | h | human kin |
    chase chased | துரத்தி துரத்துகிற் துரத்துவ் துரத்தும் துரத்த | b | animal bird thief |
    bite bit | கடித்து கடிக்கிற் கடிப்ப் கடிக்கும் கடிக்க | a | human animal |
    grow grew | வளர்த்து வளர்க்கிற் வளர்ப்ப் வளர்க்கும் வளர்க்க | h | tree flower plant vegetable |
    build built | கட்டி கட்டுகிற் கட்டுவ் கட்டும் கட்ட | h | house school temple bridge palace library hospital |
    drive drove | ஓட்டி ஓட்டுகிற் ஓட்டுவ் ஓட்டும் ஓட்ட | h | car bus train cart |
    touch touched | தொட்டு தொடுகிற் தொடுவ் தொடும் தொட | b | goods plant animal furniture |
    lift lifted | தூக்கி தூக்குகிற் தூக்குவ் தூக்கும் தூக்க | h | container furniture stone child |
    forget forgot | மறந்து மறக்கிற் மறப்ப் மறக்கும் மறக்க | h | tale friend |
    wear wore | அணிந்து அணிகிற் அணிவ் அணியும் அணிய | h | clothes |
    repair repaired | பழுதுபார்த்து பழுதுபார்க்கிற் பழுதுபார்ப்ப் பழுதுபார்க்கும் பழுதுபார்க்க | h | vehicle clock lamp road |
    pull pulled | இழுத்து இழுக்கிற் இழுப்ப் இழுக்கும் இழுக்க | b | cart rope boat box |
    push pushed | தள்ளி தள்ளுகிற் தள்ளுவ் தள்ளும் தள்ள | h | cart car furniture box door |
    climb climbed | ஏறி ஏறுகிற் ஏறுவ் ஏறும் ஏற | b | tree mountain ladder :loc |
"""

# motion: with a goal ("to the shop", dative) or a source ("from the village", -இலிருந்து)
_MOTION = """
    go went | சென்று செல்கிற் செல்வ் செல்லும் செல்ல | b | |
    come came | வந்து வருகிற் வருவ் வரும் வர | b | |
    run ran | ஓடி ஓடுகிற் ஓடுவ் ஓடும் ஓட | b | |
    walk walked | நடந்து நடக்கிற் நடப்ப் நடக்கும் நடக்க | b | |
    return returned | திரும்பி திரும்புகிற் திரும்புவ் திரும்பும் திரும்ப | b | |
"""

_INTRANSITIVE = """
    sleep slept | தூங்கி தூங்குகிற் தூங்குவ் தூங்கும் தூங்க | b | |
    sit sat | உட்கார்ந்து உட்கார்கிற் உட்கார்வ் உட்காரும் உட்கார | b | |
    stand stood | நின்று நிற்கிற் நிற்ப் நிற்கும் நிற்க | b | |
    laugh laughed | சிரித்து சிரிக்கிற் சிரிப்ப் சிரிக்கும் சிரிக்க | h | |
    cry cried | அழுது அழுகிற் அழுவ் அழும் அழ | h | |
    sing sang | பாடி பாடுகிற் பாடுவ் பாடும் பாட | h | |
    dance danced | நடனமாடி நடனமாடுகிற் நடனமாடுவ் நடனமாடும் நடனமாட | h | |
    jump jumped | குதித்து குதிக்கிற் குதிப்ப் குதிக்கும் குதிக்க | b | |
    play played | விளையாடி விளையாடுகிற் விளையாடுவ் விளையாடும் விளையாட | b | |
    work worked | உழைத்து உழைக்கிற் உழைப்ப் உழைக்கும் உழைக்க | h | |
    wait waited | காத்திருந்து காத்திருக்கிற் காத்திருப்ப் காத்திருக்கும் காத்திருக்க | h | |
    rest rested | ஓய்வெடுத்து ஓய்வெடுக்கிற் ஓய்வெடுப்ப் ஓய்வெடுக்கும் ஓய்வெடுக்க | h | |
    live lived | வாழ்ந்து வாழ்கிற் வாழ்வ் வாழும் வாழ | b | |
    fall fell | விழுந்து விழுகிற் விழுவ் விழும் விழ | b | |
"""

_SPECIAL = """
    swim swam | நீந்தி நீந்துகிற் நீந்துவ் நீந்தும் நீந்த | b | |
    fly flew | பறந்து பறக்கிற் பறப்ப் பறக்கும் பறக்க | a | |
    give gave | கொடுத்து கொடுக்கிற் கொடுப்ப் கொடுக்கும் கொடுக்க | h | fruit goods clothes text tool |
    send sent | அனுப்பி அனுப்புகிற் அனுப்புவ் அனுப்பும் அனுப்ப | h | gift letter book clothes picture |
    show showed | காட்டி காட்டுகிற் காட்டுவ் காட்டும் காட்ட | h | image text goods clothes |
    keep kept | வைத்து வைக்கிற் வைப்ப் வைக்கும் வைக்க | h | goods tool text dish fruit |
    say said | கூறி கூறுகிற் கூறுவ் கூறும் கூற | h | |
    want wanted | விரும்பி விரும்புகிற் விரும்புவ் விரும்பும் விரும்ப | h | |
    be was | இருந்து இருக்கிற் இருப்ப் இருக்கும் இருக்க | b | |
"""

# english  attributive  predicate[/of several] (- = none)  noun groups it may describe
_ADJECTIVES = """
    big பெரிய பெரிதாக animal,bird,goods,container,furniture,dish,vehicle,plant,place,fruit,produce,water
    small சிறிய சிறிதாக animal,bird,goods,container,furniture,vehicle,plant,place,fruit,produce,clothes
    new புதிய புதிதாக goods,container,furniture,dish,tool,clothes,vehicle,text,tale,opening
    old பழைய பழையதாக goods,container,furniture,dish,tool,clothes,vehicle,text,tale,image,opening
    good நல்ல - human,text,tale,fruit,produce,tool
    beautiful அழகான அழகாக bird,goods,clothes,plant,place,water,image,tale
    red சிவப்பு^ சிவப்பாக clothes,vehicle,container,dish
    white வெள்ளை^ வெள்ளையாக clothes,vehicle,animal,bird,dish
    black கருப்பு^ கருப்பாக clothes,vehicle,animal,bird,container
    green பச்சை^ பச்சையாக clothes,container,opening
    yellow மஞ்சள் மஞ்சளாக clothes,container,dish
    blue நீல^ நீலமாக clothes,vehicle,opening
    tall உயரமான உயரமாக human
    heavy கனமான கனமாக goods,container,furniture
    clean சுத்தமான சுத்தமாக dish,clothes,place,water
    dirty அழுக்கான அழுக்காக dish,clothes,vehicle
    expensive விலையுயர்ந்த - goods,clothes,vehicle,furniture
    cheap மலிவான மலிவாக goods,clothes,fruit,produce,tool
    strong வலிமையான வலிமையாக human,animal
    clever புத்திசாலியான புத்திசாலியாக/புத்திசாலிகளாக human,animal,bird
    happy மகிழ்ச்சியான மகிழ்ச்சியாக human
    sad சோகமான சோகமாக human,tale
    tired சோர்வான சோர்வாக human,animal
    brave தைரியமான தைரியமாக human
    kind அன்பான அன்பாக human
    angry கோபமான கோபமாக human,animal
    honest நேர்மையான நேர்மையாக human
    poor ஏழை^ ஏழையாக/ஏழைகளாக human
    rich பணக்கார^ - human
    famous புகழ்பெற்ற - human,place,text,tale
    lazy சோம்பேறியான சோம்பேறியாக/சோம்பேறிகளாக human,animal
    quiet அமைதியான அமைதியாக place
    healthy ஆரோக்கியமான ஆரோக்கியமாக human,animal,bird
    sweet இனிப்பான இனிப்பாக fruit
    tasty சுவையான சுவையாக fruit,produce
    strange விசித்திரமான விசித்திரமாக text,tale,animal,bird,image
    useful பயனுள்ள பயனுள்ளதாக tool,text
    funny வேடிக்கையான வேடிக்கையாக tale,image
"""

# english  tamil  the verbs it goes with
_MANNERS = """
    quickly வேகமாக^ run,walk,eat,drink,read,write,cut,wash,cook,open,close,climb,swim,drive,take,go,come,return
    slowly மெதுவாக^ run,walk,eat,drink,read,write,climb,swim,drive,open,close,pull,push,lift,dance,sing,return
    carefully கவனமாக^ read,write,draw,cut,wash,open,close,carry,lift,drive,make,repair,touch,climb,walk,build
    loudly சத்தமாக^ laugh,cry,sing,call,read
    alone தனியாக^ go,come,walk,return,eat,sleep,sit,stand,play,work,live,dance,sing,cook,build,wait,rest
    eagerly ஆர்வமாக^ read,write,hear,play,work,dance,sing,draw,eat,buy,cook
    patiently பொறுமையாக^ wait,work,sit,stand,read,repair,draw,make,help
    again மீண்டும் come,return,fall,jump,laugh,cry,sing,dance,eat,read,see,meet,call,open,close,buy,wash,help
"""

# english  tamil  tenses (p past, r present, f future)
_TIMES = """
    yesterday நேற்று p
    today இன்று pf
    tomorrow நாளை f
    last_week கடந்த_வாரம் p
    next_week அடுத்த_வாரம் f
    last_month கடந்த_மாதம் p
    next_month அடுத்த_மாதம் f
    last_year கடந்த_ஆண்டு p
    next_year அடுத்த_ஆண்டு f
    every_day தினமும் r
    often அடிக்கடி r
    in_the_morning காலையில் prf
    in_the_evening மாலையில் prf
    at_night இரவில் prf
    on_Monday திங்கட்கிழமை pf
    on_Wednesday புதன்கிழமை pf
    on_Friday வெள்ளிக்கிழமை pf
    on_Sunday ஞாயிற்றுக்கிழமை pf
"""

NUMBERS = {
    "two": "இரண்டு",
    "three": "மூன்று",
    "four": "நான்கு",
    "five": "ஐந்து",
    "six": "ஆறு",
    "seven": "ஏழு",
    "eight": "எட்டு^",
    "nine": "ஒன்பது",
    "ten": "பத்து^",
    "many": "பல",
    "some": "சில",
}

# english → the case of the noun and the Tamil word after it (மேசையின் மேல் "on the table")
POSITIONS = {
    "on": ("gen", "மேல்"),
    "under": ("gen", "அடியில்"),
    "near": ("gen", "அருகில்"),
    "behind": ("dat", "பின்னால்"),
}

# which people and places can be somebody's ("my teacher", "her shop"; nobody's king or beach)
OWNED = frozenset(
    "child teacher doctor student worker guest lawyer driver friend nurse "
    "house garden shop field room kitchen school village city office".split()
)
# where animals are, where one rides, and where only a boat or ship goes
WILD = tuple("garden village forest field park street road mountain island".split())
TOWNS = tuple("village city market school hospital temple office station college factory park".split())
SHORES = tuple("island beach city".split())
# what animals eat and drink
FODDER = {
    "eat": ("apple", "mango", "banana", "fruit", "rice", "bread", "fish", "meat"),
    "drink": ("water", "milk"),
}
# these go to a place with their object ("brought honey to the school")
CARRIED = frozenset("bring carry pull push".split())
# what people go somewhere for, and what they do before something else ("went to the shop and bought …")
ERRANDS = frozenset(
    "eat drink see buy sell read hear bring take help meet call wash cut cook catch repair "
    "sleep sing dance play work wait rest give show swim draw write".split()
)
FIRST = frozenset("go come run walk return buy take open bring see meet sit catch find cook cut wash read eat".split())
# what happens to somebody: nobody must, wants to or goes somewhere to do it
UNWILLED = frozenset("fall lose forget".split())


def _plural(english: str) -> str:
    return english[:-1] + "ies" if english.endswith("y") and english[-2] not in "aeiou" else english + "s"


def _oblique(ta: str) -> str:
    """The stem before vowel suffixes where no explicit one is given: -ம் → -த்து; short CVC doubles."""
    if ta.endswith("ம்"):
        return ta[:-2] + "த்து"
    vowel_signs = "ாிீுூெேைொோௌ"
    consonants = [c for c in ta if c not in vowel_signs + "்"]
    long_vowel = any(sign in ta for sign in "ாீூேோைௌ")
    if ta.endswith("்") and len(consonants) == 2 and not long_vowel and consonants[0] not in "ஆஈஊஏஓஐஔ":
        return ta + ta[-2:]  # கல் → கல்ல், பெண் → பெண்ண்
    return ta


def _noun(group: str, row: list[str]) -> Noun:
    english, ta = row[:2]
    more = dict(item.split("=") for item in row[2:])
    en, _, en_plural = english.partition("/")
    plural = more.get("pl") or (ta[:-2] + "ங்கள்" if ta.endswith("ம்") else ta + "கள்")
    gender = more.get("g", "h" if group in ("human", "kin") else "n")
    oblique = more.get("ob") or _oblique(ta)
    return Noun(en, en_plural or _plural(en), ta, plural, oblique, gender, group, more.get("prep", "in"))


def _verb(line: str) -> Verb:
    english, parts, subjects, objects, instruments = (field.strip() for field in line.split("|"))
    return Verb(*english.split(), *parts.split(), subjects, tuple(objects.split()), tuple(instruments.split()))


def _verbs(table: str) -> dict[str, Verb]:
    found = [_verb(line) for line in table.strip().splitlines()]
    return {verb.en: verb for verb in found}


NOUNS = [_noun(group, row) for group, table in _NOUNS.items() for row in _rows(table)]
NAMES = [Noun(en, en, ta, ta, _oblique(ta), gender, "name") for en, ta, gender in _rows(_NAMES)]
TRANSITIVE = _verbs(_VERBS)
MOTION = _verbs(_MOTION)
INTRANSITIVE = _verbs(_INTRANSITIVE)
SPECIAL = _verbs(_SPECIAL)
VERBS = {**TRANSITIVE, **MOTION, **INTRANSITIVE, **SPECIAL}
ADJECTIVES = [
    Adjective(en, ta, pred.split("/")[0].strip("-"), pred.split("/")[-1].strip("-"), frozenset(groups.split(",")))
    for en, ta, pred, groups in _rows(_ADJECTIVES)
]
MANNERS = [(en, ta, frozenset(verbs.split(","))) for en, ta, verbs in _rows(_MANNERS)]
TIMES = [(en.replace("_", " "), ta.replace("_", " "), tenses) for en, ta, tenses in _rows(_TIMES)]


def group(name: str) -> list[Noun]:
    """The nouns of a group, or the single noun of that English name. Raises KeyError for neither."""
    found = [noun for noun in NOUNS if noun.group == name] or [noun for noun in NOUNS if noun.en == name]
    if not found:
        raise KeyError(f"pocket.lexicon.group: no noun group or noun is called {name!r}")
    return found
