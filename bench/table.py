"""The table a benchmark prints, and the same as JSON beside it."""
import json


def ms(value):
    return f"{value:,.2f} ms" if value < 10 else f"{value:,.0f} ms"


def quantile(values, share):
    """The value at this share of them, in order; the last one for 1."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Table:
    """Rows of ours, rival, ratio, goal, met or not. What could not be measured is a row that says why."""

    def __init__(self, rival="rival"):
        self.rows, self.rival = [], rival

    def row(self, what, ours, rival="–", ratio=None, goal="–", met=None):
        self.rows.append({"what": what, "ours": ours, "rival": rival, "ratio": ratio, "goal": goal, "met": met})

    def ahead(self, what, ours, rival, goal=None):
        """Milliseconds of both; how many times ours is ahead, and has to be."""
        ratio = rival / ours
        self.row(what, ms(ours), ms(rival), ratio, f"≥ {goal:,g}× ahead" if goal else "–", goal and ratio >= goal)

    def within(self, what, ours, rival, goal):
        """Milliseconds of both; ours may take so many times as long."""
        self.row(what, ms(ours), ms(rival), ours / rival, f"≤ {goal:g}×", ours / rival <= goal)

    def missing(self, what, why, goal="–"):
        self.row(what, why, goal=goal, met="not measured" if goal != "–" else None)

    def show(self, head, kept_at, **more):
        with open(kept_at, "w") as f:
            json.dump({"head": head, "rows": self.rows, **more}, f, indent=1)
        print(f"\n{head}\n\n| what | ours | {self.rival} | ratio | goal | met |\n|---|---|---|---|---|---|")
        for row in self.rows:
            ratio = "–" if row["ratio"] is None else f"{row['ratio']:,.3g}" if row["ratio"] < 1000 else f"{row['ratio']:,.0f}"
            met = {None: "–", True: "yes", False: "**no**"}.get(row["met"], row["met"])
            print(f"| {row['what']} | {row['ours']} | {row['rival']} | {ratio} | {row['goal']} | {met} |")
