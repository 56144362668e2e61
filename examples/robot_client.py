"""A robot without torch asks a server what to do; here the embedded environment plays the robot (docs/robots.md).

Start `streamvln-gym serve` where the network is, and `python examples/robot_client.py` on the robot. The client needs
numpy, msgpack and websockets, and Pillow for JPEG.
"""

import io
import struct
import time
from socket import SO_SNDTIMEO, SOL_SOCKET

import msgpack
import numpy as np
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

ANSWERS = {"hello": "welcome", "reset": "ready", "resume": "resumed", "observe": "actions", "close": "closed"}


class RobotClient:
    """`reset`, then `observe` again and again. Whatever goes wrong on the way, `stop` (velocity zero) is called first.

    `camera`: width, height, fx, fy, cx, cy, pixels. `timeout`: seconds. A refusal is a RuntimeError(code, message).
    """

    def __init__(self, url, camera, stop, token=None, timeout=3.0):
        self.url, self.camera, self.stop, self.token, self.timeout = url, camera, stop, token, timeout
        self.connect()

    def connect(self):
        self.socket = connect(self.url, open_timeout=self.timeout, close_timeout=1, proxy=None).__enter__()
        self.socket.socket.setsockopt(SOL_SOCKET, SO_SNDTIMEO, struct.pack("ll", 1, 0))  # sending, too, ends in time
        actions = {"forward_metres": 0.25, "turn_degrees": 15.0}  # what this robot executes
        self.welcome = self.ask("hello", version=1, token=self.token, camera=self.camera, actions=actions)

    def ask(self, kind, **entries):
        try:
            self.socket.send(msgpack.packb({"type": kind, **entries}))
            answer = msgpack.unpackb(self.socket.recv(self.timeout))
            if answer["type"] != "error" and (answer["type"], answer.get("seq")) != (ANSWERS[kind], entries.get("seq")):
                raise ConnectionError(f"the answer is one to something else: {answer}")
        except BaseException:  # and nothing that comes late may be taken for the next answer
            self.stop()
            self.socket.close()
            raise
        for warning in answer.get("warnings", ()):
            print(f"the server warns: {warning['message']}")
        if answer["type"] == "error":
            self.stop()
            raise RuntimeError(answer["code"], answer["message"])
        return answer

    def reset(self, instruction, episode=""):
        self.session, self.seq = self.ask("reset", instruction=instruction, episode=episode)["session"], 0

    def observe(self, rgb, n_executed, depth=None, pose=None):
        """The next actions (0 STOP, 1 FORWARD, 2 LEFT, 3 RIGHT) for what is seen after `n_executed` of the last ones:
        `rgb` uint8 (height, width, 3); where `welcome["needs_geometry"]`, `depth` metres (height, width) and `pose`
        (4, 4), camera to the frame of the start."""
        from PIL import Image  # without it: "frame": {"encoding": "raw", "data": rgb.tobytes()}

        Image.fromarray(rgb).save(jpeg := io.BytesIO(), "JPEG", quality=95)
        message = {"seq": self.seq, "n_executed": n_executed, "frame": {"encoding": "jpeg", "data": jpeg.getvalue()}}
        if depth is not None:  # millimetres, 0 where there is no reading
            units = np.clip(np.nan_to_num(depth * 1000.0, posinf=0.0), 0, 65535).astype("<u2")
            Image.fromarray(units).save(png := io.BytesIO(), "PNG")
            message |= {"depth": {"encoding": "png16", "data": png.getvalue()}, "pose": np.ravel(pose).tolist()}
        for attempt in range(30):
            try:
                if attempt:
                    self.connect()
                    self.ask("resume", session=self.session)
                actions = self.ask("observe", **message)["actions"]  # asked again, the same answer comes again
                self.seq += 1
                return actions
            except (OSError, WebSocketException) as error:  # a TimeoutError is an OSError
                print(f"no answer, the robot stands still: {error!r}")
                time.sleep(1.0)
        raise ConnectionError(f"{self.url} does not come back")


def main(url="ws://127.0.0.1:8765/stream", token=None, execute=4, **options):
    import gymnasium

    env = gymnasium.make("streamvln_gym:StreamVLN-Flats-v0", **options)  # this is the robot
    seen, info = env.reset()
    (fx, _, cx), (_, fy, cy), _ = info["intrinsics"].tolist()
    camera = {"width": seen["rgb"].shape[1], "height": seen["rgb"].shape[0], "fx": fx, "fy": fy, "cx": cx, "cy": cy}
    client = RobotClient(url, camera, lambda: print("velocity zero"), token)
    client.reset(seen["instruction"])
    actions, finished = [], False
    while not finished:
        try:
            geometry = (seen["depth"][:, :, 0], seen["camera_pose"]) if client.welcome["needs_geometry"] else ()
            actions = client.observe(seen["rgb"], len(actions), *geometry)[:execute]
        except RuntimeError as error:
            if error.args[0] != "unknown_session":
                raise
            client.reset(seen["instruction"])  # the server has forgotten the episode: a new one begins here
            actions = []
        for action in actions:
            seen, _, terminated, truncated, info = env.step(action)
            if finished := terminated or truncated:
                break
    client.ask("close")
    print(f"{info['steps']} steps, {info['navigation_error']:.2f} m from the goal")


if __name__ == "__main__":
    main()
