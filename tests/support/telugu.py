"""Ten English sentences with Telugu translations, written for the tests."""

from pathlib import Path

PAIRS = [
    ("The boy drinks water every morning.", "అబ్బాయి ప్రతి ఉదయం నీళ్ళు తాగుతాడు."),
    ("My mother cooks rice in the evening.", "మా అమ్మ సాయంత్రం అన్నం వండుతుంది."),
    ("The train arrives at five.", "రైలు ఐదు గంటలకు వస్తుంది."),
    ("The teacher reads a new book today.", "ఉపాధ్యాయుడు ఈరోజు కొత్త పుస్తకం చదువుతాడు."),
    ("Where is the railway station?", "రైల్వే స్టేషన్ ఎక్కడ ఉంది?"),
    ("The children are playing in the garden.", "పిల్లలు తోటలో ఆడుకుంటున్నారు."),
    ("It rained heavily in the city yesterday.", "నిన్న నగరంలో భారీగా వర్షం కురిసింది."),
    ("She bought 12 mangoes at the market.", "ఆమె మార్కెట్‌లో 12 మామిడి పండ్లు కొన్నది."),
    ("The old man sold his red car.", "ముసలాయన తన ఎర్ర కారును అమ్మాడు."),
    ("The old man sold his house.", "ముసలాయన తన ఇంటిని అమ్మాడు."),
]


def write(path: Path, count: int = len(PAIRS)) -> Path:
    """Write the first `count` pairs as a TSV file with a line of names."""
    rows = [("english", "telugu"), *PAIRS[:count]]
    path.write_text("".join(f"{english}\t{telugu}\n" for english, telugu in rows), encoding="utf-8")
    return path
