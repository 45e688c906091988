"""Everyday words for the text exercises; the tokenizer learns them whole. Their order is part of the recipe."""

NOUNS = [
    "torque", "clearance", "capacity", "pressure", "step", "part", "bearing", "crank", "camshaft",
    "piston", "coolant", "brake", "clutch", "gap", "angle", "turn", "apple", "arm", "axle", "bag",
    "ball", "bank", "barrel", "basket", "bath", "beam", "bear", "bell", "belt", "bike", "bird", "block",
    "blade", "boat", "bolt", "bone", "book", "bottle", "bowl", "box", "bracket", "branch", "bread",
    "brick", "bridge", "brush", "bucket", "button", "cable", "cake", "camera", "camp", "can", "candle",
    "cap", "car", "card", "carpet", "case", "castle", "cat", "cellar", "chain", "chair", "channel",
    "cheese", "chest", "city", "clamp", "clock", "cloth", "cloud", "coast", "coat", "coil", "coin",
    "collar", "column", "cone", "cork", "corner", "cotton", "cover", "crane", "crate", "cup", "curtain",
    "cushion", "cycle", "cylinder", "desk", "dish", "dog", "door", "draft", "drawer", "dress", "drum",
    "duct", "dust", "ear", "earth", "edge", "egg", "elbow", "engine", "envelope", "eye", "face", "fan",
    "farm", "feather", "fence", "ferry", "field", "filter", "finger", "fire", "fish", "flame", "flange",
    "floor", "flower", "foot", "forest", "fork", "frame", "fruit", "fuel", "funnel", "furnace",
    "garden", "gasket", "gate", "gauge", "glass", "glove", "goat", "grain", "grease", "grid", "guide",
    "hall", "hammer", "hand", "handle", "harbour", "hat", "head", "hinge", "hill", "hood", "hook",
    "horn", "horse", "hose", "hotel", "house", "housing", "hub", "ice", "idler", "inlet", "injector",
    "iron", "island", "jacket", "jar", "joint", "journal", "keel", "kettle", "key", "kitchen", "knee",
    "knife", "knob", "ladder", "lake", "lantern", "latch", "leaf", "leg", "letter", "lever", "lid",
    "light", "line", "linen", "lion", "link", "liner", "lock", "lobe", "manifold", "map", "market",
    "mast", "match", "meadow", "metal", "meter", "milk", "mill", "mirror", "mountain", "mouse", "nail",
    "neck", "needle", "nest", "net", "newspaper", "node", "nozzle", "oar", "office", "oil", "onion",
    "outlet", "oven", "paddle", "page", "pan", "panel", "paper", "park", "path", "pen", "pencil",
    "piston", "pin", "pipe", "pivot", "plane", "plant", "plate", "plug", "pocket", "pole", "pond",
    "pot", "potato", "press", "pulley", "pump", "rack", "radio", "rail", "rain", "receiver",
    "regulator", "relay", "retainer", "ribbon", "rice", "river", "road", "rocker", "rod", "roof",
    "room", "rope", "rotor", "saddle", "sail", "salt", "sand", "saucer", "scale", "school", "screen",
    "screw", "sea", "seal", "seat", "sensor", "shaft", "sheet", "shelf", "shield", "ship", "shirt",
    "shoe", "shop", "shovel", "sleeve", "sluice", "smoke", "snow", "soap", "socket", "sock", "soup",
    "spacer", "spindle", "spoon", "sprocket", "stamp", "station", "stem", "stone", "stop", "stove",
    "strainer", "strap", "street", "string", "stud", "sugar", "sump", "sun", "swivel", "table", "tank",
    "tap", "tappet", "tea", "tent", "thrust", "ticket", "timer", "tin", "toe", "tool", "tower", "town",
    "toy", "train", "tray", "tree", "trunk", "tube", "tunnel", "turbine", "umbrella", "valve", "vane",
    "vase", "village", "wagon", "wall", "washer", "watch", "water", "web", "well", "wheel", "window",
    "wing", "winter", "wire", "wood", "wool", "yard", "yoke",
]  # fmt: skip

ADJECTIVES = [
    "big", "small", "old", "new", "long", "short", "wide", "narrow", "heavy", "light", "warm", "cold",
    "dry", "wet", "clean", "dirty", "full", "empty", "open", "closed", "soft", "hard", "quick", "slow",
    "early", "late", "loud", "quiet", "sharp", "dull", "round", "flat", "rough", "smooth", "upper",
    "lower", "front", "rear", "inner", "outer", "main", "spare", "left", "right", "high", "low", "deep",
    "shallow", "bright", "dark", "strong", "weak", "safe", "rich", "poor", "calm", "busy", "fresh",
    "plain",
]  # fmt: skip

NAMES = [
    "Ana", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gina", "Hugo", "Iris", "Jon", "Kim", "Leo", "Mara",
    "Nils", "Olga", "Paul", "Quinn", "Rosa", "Sam", "Tara", "Udo", "Vera", "Walt", "Xenia", "Yara",
    "Zoe", "Adam", "Bella", "Carl", "Dora", "Emil", "Fay",
]  # fmt: skip

PLACES = [
    "Rome", "Paris", "Oslo", "Lima", "Cairo", "Delhi", "Tokyo", "Bonn", "Porto", "Quito", "Dakar",
    "Perth", "Lyon", "Turin", "Ghent", "Malmo",
]  # fmt: skip

VERBS = [
    "bought", "sold", "found", "lost", "painted", "carried", "cleaned", "counted", "moved", "repaired",
    "washed", "measured",
]  # fmt: skip

KEYS = [
    "name", "size", "width", "height", "depth", "length", "weight", "colour", "price", "city", "date",
    "time", "count", "kind", "type", "level", "speed", "mode", "status", "title", "owner", "unit",
    "limit", "target", "source", "order", "range", "place", "country", "language", "amount", "user",
    "email", "topic", "query", "priority", "duration", "start", "end", "temperature", "category",
    "number", "address",
]  # fmt: skip

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
