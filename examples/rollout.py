"""Plays three episodes in unseen flats with StreamVLN and writes a video of each.

    python examples/rollout.py

The same from the command line: `streamvln-gym rollout --episodes 3 --video videos`.
"""

from pathlib import Path

from streamvln_gym.metrics import summarize
from streamvln_gym.rollout import RolloutConfig, rollout


def main() -> None:
    records = rollout(RolloutConfig(agent="streamvln", split="val_unseen", episodes=3, video=Path("videos")))
    for record in records:
        print(f"\n{record['scene_id']}  episode {record['episode_id']}  ({record.get('note', 'trained')})")
        print(f"  {record['instruction']}")
        print(f"  {record['steps']} steps, stopped {record['navigation_error']:.2f} m from the goal")
    means = summarize(records)
    print(f"\nSR {means['success']:.2f}  SPL {means['spl']:.2f}  NE {means['navigation_error']:.2f} m")


if __name__ == "__main__":
    main()
