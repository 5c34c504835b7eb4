"""The products of the synthetic dataset: ten categories, five lines of six products each, with a typical price."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Category:
    lines: tuple[str, ...]
    products: dict[str, float]  # product -> price, in the order in which users need them


CATEGORIES: dict[str, Category] = {
    "Camping": Category(
        ("Ridgeline", "Basecamp", "Drifter", "Northwood", "Tidewater"),
        {"Tent": 180, "Sleeping Bag": 90, "Camp Stove": 55, "Lantern": 35, "Cool Box": 60, "Hammock": 45},
    ),
    "Baking": Category(
        ("Farmhouse", "Copperfield", "Larder", "Sunday", "Patisserie"),
        {
            "Mixing Bowl": 22,
            "Kitchen Scale": 28,
            "Bread Tin": 16,
            "Dough Whisk": 12,
            "Cooling Rack": 14,
            "Cake Stand": 38,
        },
    ),
    "Cycling": Category(
        ("Velo", "Chainring", "Gravel", "Peloton", "Towpath"),
        {"Helmet": 70, "Lock": 40, "Lights": 35, "Pannier": 65, "Track Pump": 45, "Repair Stand": 110},
    ),
    "Gardening": Category(
        ("Orchard", "Greenhouse", "Allotment", "Wildflower", "Kew"),
        {"Seed Tray": 9, "Potting Soil": 12, "Trowel": 15, "Watering Can": 24, "Pruning Shears": 29, "Trellis": 42},
    ),
    "Painting": Category(
        ("Atelier", "Fresco", "Studio", "Cobalt", "Sketchbook"),
        {"Brush Set": 25, "Watercolours": 32, "Paper Block": 18, "Palette": 12, "Easel": 75, "Picture Frame": 30},
    ),
    "Coffee": Category(
        ("Barista", "Roastery", "Monsoon", "Highland", "Corner"),
        {"Beans": 14, "Grinder": 85, "Kettle": 60, "Dripper": 24, "Filter Papers": 6, "Thermos": 32},
    ),
    "Music": Category(
        ("Bluenote", "Encore", "Backline", "Parlour", "Tempo"),
        {"Ukulele": 65, "Tuner": 18, "Strings": 9, "Songbook": 16, "Stand": 28, "Carry Case": 48},
    ),
    "Running": Category(
        ("Stride", "Tempest", "Marathon", "Featherweight", "Dawn"),
        {"Shoes": 120, "Socks": 14, "Water Belt": 28, "Watch": 160, "Rain Jacket": 85, "Foam Roller": 26},
    ),
    "Knitting": Category(
        ("Highland Wool", "Merino", "Hearth", "Fjord", "Thimble"),
        {
            "Needles": 12,
            "Yarn Bundle": 26,
            "Pattern Book": 18,
            "Stitch Markers": 6,
            "Yarn Bowl": 30,
            "Blocking Mats": 24,
        },
    ),
    "Astronomy": Category(
        ("Orion", "Perseid", "Nightfall", "Observatory", "Zenith"),
        {"Star Map": 12, "Binoculars": 90, "Telescope": 240, "Tripod": 70, "Moon Filter": 22, "Red Torch": 16},
    ),
}
