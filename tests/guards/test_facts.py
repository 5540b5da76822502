"""Fidelity without references: required items, and the ways an output may have them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_texts import HONEST, ODD, SOURCE

from rl_nmt.guards.facts import check, fidelity
from rl_nmt.text.languages import ENGLISH, LANGUAGES, TAMIL

THERE = [
    ("He is 37.", "அவருக்கு 37 வயது."),
    ("He is 37.", "அவருக்கு ௩௭ வயது."),
    ("It costs 100,000.", "இதன் விலை 1,00,000."),
    ("It costs 1,00,000.", "இதன் விலை 100000."),
    ("It costs 3.50.", "இதன் விலை 3.50."),
    ("About 3.7 million people.", "சுமார் 3.7 மில்லியன் மக்கள்."),
    ("About 3.7 million people.", "சுமார் 37 லட்சம் மக்கள்."),
    ("He paid 2 crore.", "அவர் 20 மில்லியன் கொடுத்தார்."),
    ("It lost $10bn.", "அது 10 பில்லியன் டாலரை இழந்தது."),
    ("It has 2 doors.", "அதற்கு இரண்டு கதவுகள் உள்ளன."),
    ("The 20th year.", "இருபதாவது ஆண்டு."),
    ("40% agree.", "40 சதவீதம் பேர் ஒப்புக்கொள்கின்றனர்."),
    ("12.5 percent agree.", "12.5% பேர் ஒப்புக்கொள்கின்றனர்."),
    ("At 7.55am.", "காலை 7:55 மணிக்கு."),
    ("He scored 55, 60 runs.", "அவர் 55,60 ரன்கள் எடுத்தார்."),
    ("On 12/05/2019.", "2019 மே 12/05 அன்று."),
    ("In the 1990s.", "1990களில்."),
    ("See https://a.in/b.", "https://a.in/b ஐப் பார்க்கவும்."),
    ("See weather.com now.", "வெதர்.காம் ஐப் பார்க்கவும்."),
    ("Mail a@b.org.", "a@b.orgக்கு எழுதவும்."),
    ("Hello, {name}! %s <b>x</b>", "வணக்கம், {name}! <b>x</b> %s"),
    ("The shop sold 19 clocks.", "கடை பத்தொன்பது கடிகாரங்களை விற்றது."),
    ("He was 25 years old.", "அவருக்கு இருபத்தைந்து வயது."),
    ("About 123 people came.", "சுமார் நூற்றிருபத்துமூன்று பேர் வந்தனர்."),
    ("It is 1,000 years old.", "இது ஆயிரம் ஆண்டுகள் பழமையானது."),
    ("The festival draws about 100,000 pilgrims.", "திருவிழா சுமார் ஒரு லட்சம் யாத்திரிகர்களை ஈர்க்கிறது."),
    ("They won 10 million dollars.", "அவர்கள் ஒரு கோடி டாலர் வென்றனர்."),
    ("It cost ₹2.5 crore.", "அதன் விலை இரண்டரை கோடி ரூபாய்."),
    ("He was born in the 18th century.", "அவர் பதினெட்டாம் நூற்றாண்டில் பிறந்தார்."),
    ("Bring 4 apples.", "நாலு ஆப்பிள் கொண்டு வா."),
    ("The plant cost 9 billion rupees.", "ஆலையின் விலை 900 கோடி ரூபாய்."),
    ("The shop opens at 9:00 am.", "கடை காலை 9 மணிக்குத் திறக்கும்."),
    ("The meeting starts at 12:00.", "கூட்டம் 12 மணிக்குத் தொடங்குகிறது."),
    ("Come at 7:30 in the evening.", "மாலை ஏழரை மணிக்கு வா."),
    ("The bus leaves at 6:20.", "பேருந்து 6 மணி 20 நிமிடத்திற்குப் புறப்படும்."),
    ("It closes at 17:45.", "அது மாலை 5.45 மணிக்கு மூடப்படும்."),
    ("The war of 1914–18 was long.", "1914-1918 போர் நீண்டதாக இருந்தது."),
    ("He is available 24/7.", "அவர் 24 மணி நேரமும் கிடைப்பார்."),
    ("The exam is on 03/08/2025.", "தேர்வு 2025 ஆகஸ்ட் 3 அன்று நடைபெறும்."),
    ("The lake covers 500 km².", "ஏரி 500 சதுர கிலோமீட்டர் பரப்பளவு கொண்டது."),
    ("The tank holds 40 m³.", "தொட்டி நாற்பது கன மீட்டர் கொள்ளும்."),
    ("It is 2½ miles away.", "அது இரண்டரை மைல் தொலைவில் உள்ளது."),
    ("Add ½ cup of sugar and 2 eggs.", "அரை கப் சர்க்கரையும் இரண்டு முட்டைகளும் சேர்க்கவும்."),
    ("The temperature is -5°C.", "வெப்பநிலை மைனஸ் 5 டிகிரி."),
    ("Ten people died.", "பத்து பேர் இறந்தனர்."),
    ("It took thirty-six months.", "அதற்கு 36 மாதங்கள் ஆனது."),
    ("He owes fifty thousand rupees.", "அவர் ஐம்பதாயிரம் ரூபாய் தர வேண்டும்."),
    ("Two-thirds of them, 60 people, left.", "அவர்களில் மூன்றில் இரண்டு பங்கு, 60 பேர் சென்றனர்."),
    ("For 2 decades a couple lived here.", "இரண்டு பத்தாண்டுகளாக ஒரு தம்பதி இங்கே வாழ்ந்தனர்."),
    ("She met Ravi.", "அவர் ரவியைச் சந்தித்தார்."),
    ("She met Ravi.", "அவர் Ravi-ஐச் சந்தித்தார்."),
    ("She met George Washington.", "அவர் ஜார்ஜ் வாஷிங்டனைச் சந்தித்தார்."),
    ("He lives in New York.", "அவர் நியூயார்க்கில் வசிக்கிறார்."),
    ("The Korean team won.", "கொரிய அணி வென்றது."),
    ("The NSA said so.", "என்எஸ்ஏ அவ்வாறு கூறியது."),
    ("He came on 5 January.", "அவர் ஜனவரி 5 அன்று வந்தார்."),
    ("Play it on YouTube.", "அதை யூடியூப்பில் இயக்குங்கள்."),
    ("I met Ravi, Kumar and Priya.", "நான் ரவி, குமார் மற்றும் பிரியாவைச் சந்தித்தேன்."),
    ("She flew to Lahore with Rahul.", "அவள் ராகுலுடன் லாகூருக்குப் பறந்தாள்."),
    ("He read Ezhil's poems in Kanchipuram.", "அவர் காஞ்சிபுரத்தில் எழிலின் கவிதைகளைப் படித்தார்."),
    ("I spoke to Ravi.", "நான் இரவியுடன் பேசினேன்."),
    ("We saw Lakshmi there.", "நாங்கள் இலட்சுமியை அங்கே பார்த்தோம்."),
    ("They prayed to Jesus.", "அவர்கள் இயேசுவிடம் வேண்டினார்கள்."),
    ("He visited Jakob in Rome.", "அவர் உரோமாவில் யாகோபைச் சந்தித்தார்."),
    ("People worship Krishna here.", "மக்கள் இங்கே ஶ்ரீகிருஷ்ணரை வழிபடுகிறார்கள்."),
    ("She came from South Korea.", "அவர் தென்கொரியாவிலிருந்து வந்தார்."),
    ("The BBC published it.", "பி.பி.சி. அதை வெளியிட்டது."),
    ("The film starred MGR.", "அந்தப் படத்தில் எம்.ஜி.ஆர். நடித்தார்."),
    ("He studied at NIT.", "அவர் என்.ஐ.டி.யில் படித்தார்."),
    ("Two MLAs spoke.", "இரண்டு எம்எல்ஏக்கள் பேசினர்."),
    ("An A.I. tool for the WHO.", "WHO-க்கான A.I. கருவி."),
    ("The US spoke to the EU.", "அமெரிக்கா ஐரோப்பிய ஒன்றியத்துடன் பேசியது."),
    ("The shop opens at 7 PM.", "கடை இரவு 7 மணிக்குத் திறக்கும்."),
    ("It cost Rs 500 in 300 BC.", "கி.மு. 300 இல் அதன் விலை ரூ. 500."),
    ("He often wrote to the Intelligence Committee.", "அவர் புலனாய்வுக் குழுவுக்கு அடிக்கடி எழுதினார்."),
]
MISSING = [
    ("He is 37.", "அவருக்கு 38 வயது.", ("number", "37")),
    ("He is 37.", "அவருக்கு 370 வயது.", ("number", "37")),
    ("It costs 100,000.", "இதன் விலை 10,000.", ("number", "100,000")),
    ("About 3.7 million people.", "சுமார் 3.7 பில்லியன் மக்கள்.", ("number", "3.7 million")),
    ("About 3.7 million people.", "சுமார் 73 லட்சம் மக்கள்.", ("number", "3.7 million")),
    ("It has 2 doors.", "அதற்கு மூன்று கதவுகள் உள்ளன.", ("number", "2")),
    ("Inflation rose 1.5 percent.", "பணவீக்கம் 15 சதவீதம் உயர்ந்தது.", ("percent", "1.5")),
    ("His temperature was 38.5 degrees.", "அவரது வெப்பநிலை 385 டிகிரி.", ("number", "38.5")),
    ("It fell by 0.5 metres.", "அது 5 மீட்டர் குறைந்தது.", ("number", "0.5")),
    ("Latitude : 28.6139°", "அட்சரேகை : 286139°", ("number", "28.6139")),
    ("The train leaves at 8:15.", "ரயில் 815 மணிக்குப் புறப்படும்.", ("number", "8:15")),
    ("The temperature is -5°C.", "வெப்பநிலை 5 டிகிரி செல்சியஸ்.", ("number", "5")),
    ("They owe 9 billion rupees.", "அவர்கள் 9 கோடி ரூபாய் தர வேண்டும்.", ("number", "9 billion")),
    ("He paid 10 rupees.", "அவர் பத்தாயிரம் ரூபாய் கொடுத்தார்.", ("number", "10")),
    ("I need 123 apples.", "எனக்கு १२३ ஆப்பிள்கள் வேண்டும்.", ("number", "123")),
    ("I need 7 apples.", "எனக்கு ৭ ஆப்பிள்கள் வேண்டும்.", ("number", "7")),
    ("I need 45 apples.", "எனக்கு ٤٥ ஆப்பிள்கள் வேண்டும்.", ("number", "45")),
    ("Ten people died.", "100 பேர் இறந்தனர்.", ("number", "Ten")),
    ("It took thirty-six months.", "அதற்கு முப்பது மாதங்கள் ஆனது.", ("number", "thirty-six")),
    ("40% agree.", "40 பேர் ஒப்புக்கொள்கின்றனர்.", ("percent", "40")),
    ("40% agree.", "4% பேர் ஒப்புக்கொள்கின்றனர்.", ("percent", "40")),
    ("See https://a.in/b.", "https://a.in/c ஐப் பார்க்கவும்.", ("url", "https://a.in/b")),
    ("Mail a@b.org.", "எழுதவும்.", ("email", "a@b.org")),
    ("Hello, {name}!", "வணக்கம், {பெயர்}!", ("placeholder", "{name}")),
    ("She met Ravi.", "அவர் கமலாவைச் சந்தித்தார்.", ("name", "Ravi")),
    ("She met Nelson Mandela.", "அவர் ஆபிரகாம் லிங்கனைச் சந்தித்தார்.", ("name", "Nelson Mandela")),
    ("The NSA said so.", "எஃப்பிஐ அவ்வாறு கூறியது.", ("acronym", "NSA")),
    ("The EU said so.", "ஏதோ ஒன்று அவ்வாறு கூறியது.", ("acronym", "EU")),
    ("We met John here.", "நாங்கள் அவரை இங்கே சந்தித்தோம்.", ("name", "John")),
    ("They like Iran.", "அவர்களுக்கு ஈராக் பிடிக்கும்.", ("name", "Iran")),
    ("They like Paris.", "அவர்களுக்கு பெர்லின் பிடிக்கும்.", ("name", "Paris")),
    ("I saw Eve.", "நான் அவரைப் பார்த்தேன்.", ("name", "Eve")),
    ("He called Anna.", "அவர் அந்த அழைப்பை எடுத்தார்.", ("name", "Anna")),
    ("Then Kit left.", "பிறகு கூட்டம் கலைந்தது.", ("name", "Kit")),
    ("I met Ravi, Kumar.", "நான் குமாரைச் சந்தித்தேன்.", ("name", "Ravi")),
]


@pytest.mark.parametrize(("source", "output"), THERE)
def test_found(source, output):
    result = check(source, output, TAMIL)
    assert result and all(result.values()) and fidelity(source, output, TAMIL) == 1.0


@pytest.mark.parametrize(("source", "output", "item"), MISSING)
def test_missing(source, output, item):
    result = check(source, output, TAMIL)
    assert [key for key, there in result.items() if not there and key[0] != "added"] == [item]


@pytest.mark.parametrize(
    "source",
    [
        *("", "the rain has stopped.", "On Monday the President met the Queen.", "?!", "Purchase Successful!"),
        *("He rests on Sundays.", "The Moon moves round the Earth.", "Meanwhile, the Governor spoke."),
    ],
)
def test_nothing_to_check(source):
    assert fidelity(source, HONEST, TAMIL) is None
    assert check(source, HONEST, TAMIL) == {}


@pytest.mark.parametrize(
    ("code", "output", "asked"),
    [
        ("hi", "वह 1990 में रवि से मिली।", ["number", "name"]),
        ("gu", "તે 1990 માં રવિને મળી.", ["number"]),
        ("ja", "彼女は1990年にラヴィに会った。", ["number"]),
        ("de", "Sie traf Ravi 1990.", ["number", "name"]),
        ("ta", "அவர் 1990 இல் ரவியைச் சந்தித்தார்.", ["number", "name"]),
    ],
)
def test_names_are_required_where_they_can_be_found(code, output, asked):
    """In the source's own letters, or in a script whose sounds are in the table."""
    found = check("She met Ravi in 1990.", output, LANGUAGES[code])
    assert [kind for kind, _ in found] == asked and all(found.values())


def test_weights():
    """A number weighs 1, a name one half: with the name lost two thirds remain, with the number one third."""
    source = "She met Ravi in 1990."
    assert fidelity(source, "அவர் 1990 இல் சந்தித்தார்.", TAMIL) == pytest.approx(2 / 3)
    assert fidelity(source, "அவர் ரவியைச் சந்தித்தார்.", TAMIL) == pytest.approx(1 / 3)
    assert fidelity(source, "", TAMIL) == 0.0


def test_each_thing_counts_once():
    result = check("She met Ravi, and Ravi met 5 and 5.", "ரவி 5", TAMIL)
    assert result == {("name", "Ravi"): True, ("number", "5"): True}


def test_the_other_direction():
    source = "ரவி 1,00,000 ரூபாயும் ௫ பழங்களும் கொடுத்தார்."
    assert fidelity(source, "Ravi gave 100,000 rupees and five fruits.", ENGLISH, TAMIL) == 1.0
    assert fidelity(source, "Ravi gave 10,000 rupees and six fruits.", ENGLISH, TAMIL) == 0.0
    assert fidelity("அவர் 37 லட்சம் கொடுத்தார்.", "He gave 3.7 million.", ENGLISH, TAMIL) == 1.0


@pytest.mark.parametrize(
    ("source", "output", "added"),
    [
        ("The rain has stopped.", "மழை 3 மணிக்கு நின்றுவிட்டது.", ["3"]),
        ("People died.", "நூறு பேர் இறந்தனர்.", ["நூறு"]),
        ("He has 5 cows.", "அவரிடம் 5 பசுக்களும் பன்னிரண்டு ஆடுகளும் உள்ளன.", ["பன்னிரண்டு"]),
        ("The river rose.", "ஆறு உயர்ந்தது, ஒரு வீடு மூழ்கியது.", []),
        ("Both of them waited till noon.", "இருவரும் பகல் 12 மணி வரை காத்திருந்தனர்.", []),
        ("He won the Second World War.", "அவர் இரண்டாம் உலகப் போரில் வென்றார்.", []),
        ("Henry VIII came in May.", "எட்டாம் ஹென்றி மே மாதம் வந்தார்.", []),
        ("A dozen came for decades.", "பத்து ஆண்டுகளாகப் பன்னிரண்டு பேர் வந்தனர்.", []),
        ("See https://a.in/5.", "https://a.in/5 ஐயும் 5ஐயும் பார்க்கவும்.", []),
    ],
)
def test_added_numbers(source, output, added):
    assert [text for kind, text in check(source, output, TAMIL) if kind == "added"] == added


def test_an_added_number_costs_like_a_lost_one():
    source, output = "He has 5 cows.", "அவரிடம் 5 பசுக்களும் 12 ஆடுகளும் உள்ளன."
    assert (
        fidelity(source, output, TAMIL)
        == fidelity("He has 5 cows and 12 goats.", output.replace("12 ", ""), TAMIL)
        == 0.5
    )
    assert fidelity("The rain has stopped.", "மழை 3 மணிக்கு நின்றது.", TAMIL) == 0.0


@pytest.mark.parametrize(
    ("code", "source", "output", "lost"),
    [
        ("de", "Ten people came in 2 cars.", "Zehn Menschen kamen in 2 Autos.", []),
        ("de", "It grew by 1,500.5 to 3.7 million.", "Es wuchs um 1.500,5 auf 3,7 Millionen.", []),
        ("de", "It rose 1.5 percent.", "Es stieg um 15 %.", ["1.5"]),
        ("hi", "I need 123 apples.", "मुझे १२३ सेब चाहिए।", []),
        ("hi", "I need 123 apples.", "मुझे ௧௨௩ सेब चाहिए।", ["123"]),
        ("zh", "It cost 2.8 billion pounds.", "它耗资28亿英镑。", []),
        ("zh", "It cost 2.8 billion pounds.", "它耗资27亿英镑。", ["2.8 billion"]),
    ],
)
def test_other_languages_have_only_digits(code, source, output, lost):
    assert [text for (_, text), there in check(source, output, LANGUAGES[code]).items() if not there] == lost


@pytest.mark.parametrize("text", [text for _, text, _ in ODD], ids=[name for name, _, _ in ODD])
def test_odd_texts(text):
    for pair in ((SOURCE, text), (text, HONEST), (text, text)):
        value = fidelity(*pair, TAMIL)
        assert value is None or 0.0 <= value <= 1.0


@given(st.text() | st.text("0123456789.,:% kmA{}@"), st.text())
def test_any_texts(source, output):
    assert check(source, output, TAMIL) == check(source, output, TAMIL)
    value = fidelity(source, output, TAMIL)
    assert value is None or 0.0 <= value <= 1.0
