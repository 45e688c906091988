"""Units as people write them, and their conversion by pint.

``UNITS`` maps the symbol that this package reports to what pint calls it; ``read_unit`` finds a unit behind a number.
Units that pint cannot know (currencies, oil grades) compare by name.
"""

import re
from functools import lru_cache
from typing import Any

# symbol -> (pint expression, spellings as a regular expression); order decides between equally long matches.
_PLAIN: dict[str, tuple[str | None, str]] = {
    # torque
    "Nm": ("newton*meter", r"N\s?(?:\\,|\\cdot|[·.*×-])?\s?m(?![a-zA-Z²³])|[Nn]ewton[\s-]?(?:metre|meter)s?|NM(?![a-zA-Z])"),
    "kNm": ("kilonewton*meter", r"kN\s?[·.*-]?\s?m"),
    "Ncm": ("newton*centimeter", r"N\s?[·.*-]?\s?cm"),
    "mNm": ("millinewton*meter", r"mN\s?[·.*-]?\s?m(?![a-z])"),
    "ft-lb": (
        "foot*force_pound",
        r"(?:ft|FT|Ft|foot|feet)\.?[\s·*-]{0,2}(?:lbs?|LBS?|Lbs?|pounds?|lbf)(?![a-z])(?:\.?\s?f)?|(?:lbs?|LBS?|pounds?|lbf|lb\.f)\.?[\s·*-]{0,2}(?:ft|FT|feet|foot)(?![a-z])",
    ),
    "in-lb": (
        "inch*force_pound",
        r"(?:in|IN|In|inch|inches)\.?[\s·*-]{0,2}(?:lbs?|LBS?|Lbs?|pounds?|lbf)(?![a-z])(?:\.?\s?f)?|(?:lbs?|LBS?|pounds?|lbf)\.?[\s·*-]{0,2}(?:in|IN|inch|inches)(?![a-z])",
    ),
    "oz-in": ("force_ounce*inch", r"oz\.?[\s·-]{0,2}in(?![a-z])|in\.?[\s·-]{0,2}oz(?![a-z])"),
    "kgf-m": ("force_kilogram*meter", r"(?:kgf|kg|kp)[\s·*-]?m(?![a-zA-Z²³/])"),
    "kgf-cm": ("force_kilogram*centimeter", r"(?:kgf|kg|kp)[\s·*-]?cm(?![²³])"),
    # pressure
    "bar": ("bar", r"[Bb]ars?"),
    "mbar": ("millibar", r"mbar|millibars?"),
    "psi": ("psi", r"psi|PSI|[Ll]bs?\.? per square inch|pounds per square inch|lbs?/in²|lbs?/in\^2"),
    "Pa": ("pascal", r"Pa|[Pp]ascals?"),
    "kPa": ("kilopascal", r"[kK]Pa|kilopascals?"),
    "MPa": ("megapascal", r"MPa|megapascals?"),
    "GPa": ("gigapascal", r"GPa"),
    "hPa": ("hectopascal", r"hPa"),
    "atm": ("atmosphere", r"atm|atmospheres?"),
    "mmHg": ("mmHg", r"mm\s?Hg"),
    "inHg": ("inHg", r"in\.?\s?Hg"),
    "kgf/cm²": ("force_kilogram/centimeter**2", r"kgf?/cm(?:²|\^2|2)"),
    # length, area, volume
    "mm": ("millimeter", r"mm|MM|millimet(?:er|re)s?"),
    "cm": ("centimeter", r"cm|centimet(?:er|re)s?"),
    "dm": ("decimeter", r"dm|decimet(?:er|re)s?"),
    "m": ("meter", r"m|met(?:er|re)s?"),
    "km": ("kilometer", r"km|kms|[kK]ilomet(?:er|re)s?"),
    "μm": ("micrometer", r"μm|um|microns?|micromet(?:er|re)s?"),
    "nm": ("nanometer", r"nm|nanomet(?:er|re)s?"),
    "in": ("inch", r"in\.(?=[\s,;)]|$)|in(?=\s?(?:$|[,;:)\]\n/]|\.(?:\s|$)|x\b|long|wide|high|deep|thick|tall|diameter|of (?:mercury|clearance|play|travel)|or\b|and\b|bolt|wrench|socket|drive))|[Ii]nch(?:es)?|\""),
    "ft": ("foot", r"ft\.?|feet|foot"),
    "yd": ("yard", r"yds?|yards?"),
    "mi": ("mile", r"mi|miles?"),
    "mil": ("thousandth_inch", r"mils?|thou"),
    "mm²": ("millimeter**2", r"mm(?:²|\^2|2)|square millimet(?:er|re)s?|sq\.? ?mm"),
    "cm²": ("centimeter**2", r"cm(?:²|\^2|2)|square centimet(?:er|re)s?|sq\.? ?cm"),
    "m²": ("meter**2", r"m(?:²|\^2|\^\{2\}|2)|square met(?:er|re)s?|sq\.? ?m"),
    "km²": ("kilometer**2", r"km(?:²|\^2|2)|square kilomet(?:er|re)s?|sq\.? ?km"),
    "in²": ("inch**2", r"in(?:²|\^2)|square inch(?:es)?|sq\.? ?in"),
    "ft²": ("foot**2", r"ft(?:²|\^2)|square f(?:ee|oo)t|sq\.? ?ft\.?"),
    "ha": ("hectare", r"ha|hectares?"),
    "acre": ("acre", r"acres?"),
    "mm³": ("millimeter**3", r"mm(?:³|\^3)|cubic millimet(?:er|re)s?"),
    "cm³": ("centimeter**3", r"cm(?:³|\^3)|cc|ccm|cubic centimet(?:er|re)s?"),
    "m³": ("meter**3", r"m(?:³|\^3)|cubic met(?:er|re)s?"),
    "ft³": ("foot**3", r"ft(?:³|\^3)|cubic f(?:ee|oo)t|cu\.? ?ft"),
    "in³": ("inch**3", r"in(?:³|\^3)|cubic inch(?:es)?|cu\.? ?in"),
    "L": ("liter", r"[lLℓ]|[lL]it(?:er|re)s?|ltrs?"),
    "mL": ("milliliter", r"m[lL]|millilit(?:er|re)s?"),
    "cL": ("centiliter", r"c[lL]|centilit(?:er|re)s?"),
    "dL": ("deciliter", r"d[lL]"),
    "gal": ("gallon", r"gal\.?|gals|gallons?"),
    "qt": ("quart", r"qts?\.?|quarts?"),
    "pt": ("pint", r"pints?"),
    "fl oz": ("fluid_ounce", r"fl\.? ?oz\.?|fluid ounces?"),
    "cup": ("cup", r"cups?"),
    "tbsp": ("tablespoon", r"tbsp\.?|tablespoons?"),
    "tsp": ("teaspoon", r"tsp\.?|teaspoons?"),
    # mass, force
    "g": ("gram", r"g|gr|gm|grams?|grammes?"),
    "kg": ("kilogram", r"[kK]gs?|KG|kilos?|kilograms?"),
    "mg": ("milligram", r"mg|milligrams?"),
    "μg": ("microgram", r"μg|ug|mcg|micrograms?"),
    "t": ("metric_ton", r"t|tonnes?|metric tons?"),
    "ton": ("ton", r"tons?|short tons?"),
    "lb": ("pound", r"lbs?\.?|pounds?"),
    "oz": ("ounce", r"oz\.?|ounces?"),
    "N": ("newton", r"N|newtons?"),
    "kN": ("kilonewton", r"kN|kilonewtons?"),
    "lbf": ("force_pound", r"lbf"),
    "kgf": ("force_kilogram", r"kgf"),
    # angle, temperature
    "deg": ("degree", r"°|degs?\.?|[dD]egrees?|\^\\circ|\^\{\\circ\}|\\degree"),
    "rad": ("radian", r"rad|radians?"),
    "turn": ("turn", r"turns?|revolutions?|revs?"),
    "°C": ("degC", r"°\s?C|℃|deg\.?\s?C|degrees? [Cc](?:elsius|entigrade)?|C(?=[\s.,;)]|$)|[Cc]elsius|\^\\circ\s?C|\^\{\\circ\}\s?(?:C|\\text\{C\})"),
    "°F": ("degF", r"°\s?F|℉|deg\.?\s?F|degrees? [Ff](?:ahrenheit)?|[Ff]ahrenheit|F(?=[\s.,;)]|$)"),
    "K": ("kelvin", r"K|[kK]elvins?"),
    # time, speed
    "ms": ("millisecond", r"ms|msec|milliseconds?"),
    "μs": ("microsecond", r"μs|us|microseconds?"),
    "ns": ("nanosecond", r"ns|nanoseconds?"),
    "s": ("second", r"s|secs?\.?|[sS]econds?"),
    "min": ("minute", r"mins?\.?|[mM]inutes?"),
    "h": ("hour", r"h|hrs?\.?|[hH]ours?"),
    "day": ("day", r"days?"),
    "week": ("week", r"weeks?|wks?"),
    "month": ("month", r"months?"),
    "year": ("year", r"years?|yrs?\.?"),
    "km/h": ("kilometer/hour", r"km/hr?|kph|kmh|km per hour|kilomet(?:er|re)s per hour|KPH"),
    "mph": ("mile/hour", r"mph|MPH|miles per hour|mi/h"),
    "m/s": ("meter/second", r"m/s(?!²|\^)|met(?:er|re)s per second|m s\^-1|m s⁻¹"),
    "m/s²": ("meter/second**2", r"m/s(?:²|\^2|\^\{2\})"),
    "ft/s": ("foot/second", r"ft/s|fps"),
    "kn": ("knot", r"kn|kts?|knots?"),
    "rpm": ("revolutions_per_minute", r"rpm|RPM|r/min|rev/min|revs? per minute|revolutions per minute|1/min|min⁻¹|min\^-1"),
    # electricity, energy, light
    "V": ("volt", r"V|[vV]olts?|VDC|VAC|Vdc|Vac|V DC|V AC"),
    "mV": ("millivolt", r"mV|millivolts?"),
    "kV": ("kilovolt", r"kV|kilovolts?"),
    "A": ("ampere", r"A|[aA]mps?|[aA]mperes?"),
    "mA": ("milliampere", r"mA|milliamps?|milliamperes?"),
    "Ah": ("ampere*hour", r"Ah|amp[\s-]?hours?"),
    "mAh": ("milliampere*hour", r"mAh"),
    "W": ("watt", r"W|[wW]atts?"),
    "kW": ("kilowatt", r"kW|KW|kilowatts?"),
    "MW": ("megawatt", r"MW|megawatts?"),
    "GW": ("gigawatt", r"GW|gigawatts?"),
    "hp": ("horsepower", r"hp|HP|bhp|horse ?power"),
    "PS": ("metric_horsepower", r"PS|CV"),
    "ohm": ("ohm", r"Ω|[oO]hms?"),
    "kΩ": ("kiloohm", r"k\s?Ω|kohms?|kilo-?ohms?|kOhms?"),
    "MΩ": ("megaohm", r"M\s?Ω|Mohms?|mega-?ohms?|MOhms?"),
    "mΩ": ("milliohm", r"mΩ|milliohms?"),
    "Hz": ("hertz", r"Hz|HZ|[hH]ertz"),
    "kHz": ("kilohertz", r"[kK]Hz"),
    "MHz": ("megahertz", r"MHz"),
    "GHz": ("gigahertz", r"GHz"),
    "μF": ("microfarad", r"μF|uF|microfarads?"),
    "nF": ("nanofarad", r"nF"),
    "pF": ("picofarad", r"pF"),
    "J": ("joule", r"J|joules?"),
    "kJ": ("kilojoule", r"kJ"),
    "MJ": ("megajoule", r"MJ"),
    "Wh": ("watt*hour", r"Wh|watt[\s-]?hours?"),
    "kWh": ("kilowatt*hour", r"kWh|KWh|kilowatt[\s-]?hours?"),
    "MWh": ("megawatt*hour", r"MWh"),
    "TWh": ("terawatt*hour", r"TWh"),
    "kcal": ("kilocalorie", r"kcal|kilocalories?"),
    "cal": ("calorie", r"cal|calories?"),
    "dB": ("decibel", r"dB(?:\(?A\)?)?|decibels?"),
    "lx": ("lux", r"lx|lux"),
    "lm": ("lumen", r"lm|lumens?"),
    # flow, concentration, dose, data
    "L/min": ("liter/minute", r"[lL]/min|[lL]it(?:er|re)s per minute|lpm|LPM"),
    "L/h": ("liter/hour", r"[lL]/h|[lL]it(?:er|re)s per hour"),
    "gpm": ("gallon/minute", r"gpm|GPM|gallons per minute"),
    "L/100km": ("liter/hundred_kilometers", r"[lL]\s?/\s?100\s?km"),
    "mpg": ("mile/gallon", r"mpg|MPG|miles per gallon"),
    "g/cm³": ("gram/centimeter**3", r"g/c(?:m(?:³|\^3|3)|c)"),
    "kg/m³": ("kilogram/meter**3", r"kg/m(?:³|\^3|3)"),
    "mg/kg": ("milligram/kilogram", r"mg/kg"),
    "mg/m²": ("milligram/meter**2", r"mg/m(?:²|\^2|2)"),
    "mg/dL": ("milligram/deciliter", r"mg/d[lL]"),
    "mg/L": ("milligram/liter", r"mg/[lL]"),
    "g/L": ("gram/liter", r"g/[lL]"),
    "mmol/L": ("millimole/liter", r"mmol/[lL]"),
    "mol": ("mole", r"mol|moles?"),
    "Gy": ("gray", r"Gy"),
    "mSv": ("millisievert", r"mSv"),
    "ppm": ("ppm", r"ppm|parts per million"),
    "B": ("byte", r"bytes?"),
    "KB": ("kilobyte", r"[kK]B|kilobytes?"),
    "MB": ("megabyte", r"MB|megabytes?"),
    "GB": ("gigabyte", r"GB|gigabytes?"),
    "TB": ("terabyte", r"TB|terabytes?"),
    "Mbps": ("megabit/second", r"Mbps|Mbit/s|Mb/s"),
    "Gbps": ("gigabit/second", r"Gbps|Gbit/s|Gb/s"),
    "px": ("pixel", r"px|pixels?"),
    "dpi": ("pixel/inch", r"dpi|ppi"),
    "%": ("percent", r"\\?%|percent|per cent|pct"),
    # compared by name
    "USD": (None, r"USD|US\s?dollars?|dollars?|US\$"),
    "EUR": (None, r"EUR|[eE]uros?|€"),
    "GBP": (None, r"GBP|£|pounds? sterling"),
    "JPY": (None, r"JPY|yen|¥"),
    "cent": (None, r"cents?|¢"),
}  # fmt: skip
_CURRENCY_SIGNS = {"$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY", "₹": "INR"}
UNITS: dict[str, str | None] = {symbol: expression for symbol, (expression, _) in _PLAIN.items()}

_GROUPS = {f"u{place}": symbol for place, symbol in enumerate(_PLAIN)}
_ENDS = r"(?![A-Za-z0-9²³]|\^[23])"


def _spellings() -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(rf"(?:{pattern}){_ENDS}"), symbol) for symbol, (_, pattern) in _PLAIN.items()]


@lru_cache(maxsize=1)
def _by_first() -> dict[str, list[tuple[re.Pattern[str], str]]]:
    """Patterns by the first characters that they can start with, so that a number tries a few and not all."""
    import string

    starts = string.ascii_letters + '°℃℉Ω€£¥¢μℓ%\\"^1'
    table: dict[str, list[tuple[re.Pattern[str], str]]] = {char: [] for char in starts}
    for pattern, symbol in _spellings():
        firsts = _first_characters(_PLAIN[symbol][1])
        for char in starts:
            if char in firsts:
                table[char].append((pattern, symbol))
    return table


def _first_characters(pattern: str) -> set[str]:
    """Characters that a spelling can start with, read off the parsed regular expression."""
    from re import _parser  # type: ignore[attr-defined]

    firsts: set[str] = set()

    def walk(items: Any) -> bool:
        """Collect first characters; True when the whole may match nothing."""
        for kind, value in items:
            name = str(kind)
            if name == "LITERAL":
                firsts.add(chr(value))
                return False
            if name == "IN":
                for inner, code in value:
                    if str(inner) == "LITERAL":
                        firsts.add(chr(code))
                    elif str(inner) == "CATEGORY":
                        firsts.update(" ")
                    elif str(inner) == "RANGE":
                        firsts.update(chr(c) for c in range(code[0], code[1] + 1))
                return False
            if name == "BRANCH":
                empty = [walk(branch) for branch in value[1]]  # all of them: each adds its first characters
                if not any(empty):
                    return False
            elif name == "SUBPATTERN":
                if not walk(value[3]):
                    return False
            elif name in ("MAX_REPEAT", "MIN_REPEAT"):
                empty = walk(value[2])
                if value[0] > 0 and not empty:
                    return False
        return True

    walk(_parser.parse(pattern))
    return firsts


def read_unit(text: str, start: int) -> tuple[str, int] | None:
    """The longest unit at ``start`` (a folded text) as (symbol, end), or None."""
    if start >= len(text):
        return None
    best: tuple[str, int] | None = None
    for pattern, symbol in _by_first().get(text[start], ()):
        match = pattern.match(text, start)
        if match and (best is None or match.end() > best[1]):
            best = (symbol, match.end())
    return best


def currency_unit(sign: str) -> str | None:
    return _CURRENCY_SIGNS.get(sign)


@lru_cache(maxsize=4096)
def canonical_unit(written: str) -> str | None:
    """The symbol of a unit as written in a setting or a gold answer; None for an unknown one."""
    from vlm_pipeline.scoring.folding import fold

    if written in UNITS:
        return written
    folded = fold(written.strip().rstrip("."))
    found = read_unit(folded, 0)
    return found[0] if found and found[1] == len(folded) else None


@lru_cache(maxsize=1)
def _registry() -> Any:
    import pint

    registry = pint.UnitRegistry(autoconvert_offset_to_baseunit=True)
    registry.define("thousandth_inch = 0.001 * inch")
    registry.define("hundred_kilometers = 100 * kilometer")
    return registry


@lru_cache(maxsize=8192)
def _factor(source: str, target: str) -> tuple[float, float] | None:
    """(scale, offset) such that target = source * scale + offset; None between different dimensions."""
    if source == target:
        return 1.0, 0.0
    left, right = UNITS.get(source), UNITS.get(target)
    if left is None or right is None:
        return None
    registry = _registry()
    try:
        zero = registry.Quantity(0.0, left).to(right).magnitude
        one = registry.Quantity(1.0, left).to(right).magnitude
    except Exception as error:  # pint's DimensionalityError, and its subclasses for offset units
        if type(error).__name__ not in ("DimensionalityError", "OffsetUnitCalculusError"):
            raise
        return None
    return float(one - zero), float(zero)


def convert(value: float, source: str, target: str) -> float | None:
    """The value in another unit, by pint; None when the units measure different things."""
    factor = _factor(source, target)
    return None if factor is None else value * factor[0] + factor[1]
