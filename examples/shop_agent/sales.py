"""A little shop's sales: one table, made from a seed."""

from __future__ import annotations

import random
import sqlite3
from dataclasses import dataclass

CUSTOMERS = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana")
CITIES = ("Bern", "Graz", "Kiel", "Nice", "Turku")
ITEMS = ("lamp", "chair", "shelf", "desk", "rug", "mirror")
DAYS, SALES = 60, 40
COLUMNS = "customer TEXT, city TEXT, item TEXT, pieces INTEGER, price INTEGER, day INTEGER"


@dataclass(frozen=True)
class Sale:
    customer: str
    city: str
    """The customer's own: it is the same in each of their sales."""
    item: str
    pieces: int
    price: int
    """Of one piece."""
    day: int
    """Each day has one sale at most, so there is a first and a last one."""


def sales(seed: int) -> list[Sale]:
    """Return the sales of this shop, by day."""
    rng = random.Random(f"shop/{seed}")
    home = {customer: rng.choice(CITIES) for customer in CUSTOMERS}
    days = sorted(rng.sample(range(1, DAYS + 1), SALES))
    made = []
    for day in days:
        customer = rng.choice(CUSTOMERS)
        made.append(Sale(customer, home[customer], rng.choice(ITEMS), rng.randint(1, 9), rng.randint(5, 60), day))
    return made


def connect(seed: int) -> sqlite3.Connection:
    """Open the shop's database, in memory."""
    database = sqlite3.connect(":memory:")
    database.execute(f"CREATE TABLE sales ({COLUMNS})")
    rows = [(each.customer, each.city, each.item, each.pieces, each.price, each.day) for each in sales(seed)]
    database.executemany("INSERT INTO sales VALUES (?, ?, ?, ?, ?, ?)", rows)
    database.execute("PRAGMA query_only = ON")
    return database
