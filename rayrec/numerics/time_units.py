"""Times are whole microseconds since the epoch, UTC, in every table and every cut: how long a day is in them."""

MICROSECONDS_PER_DAY = 86_400_000_000
