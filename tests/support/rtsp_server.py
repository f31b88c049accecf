"""An RTSP camera for the tests; run with the system's Python, which has GStreamer: rtsp_server.py PORT [WIDTH HEIGHT].

The whole image is one grey that says when it was made: see `level_at`. On stdout comes a line once it listens.
"""

import sys
import time

STEP_SECONDS = 0.05
STEPS = 40


def level_at(seconds):
    """The grey level of an image made at a time: 5 more every 50 ms, over two seconds."""
    return 30 + 5 * (int(seconds / STEP_SECONDS) % STEPS)


def age_of(level, now):
    """How old an image of this grey level is, in seconds, modulo two seconds."""
    made = round((level - 30) / 5) * STEP_SECONDS
    return (now - made) % (STEPS * STEP_SECONDS)


def main(port, width, height):
    import gi  # type: ignore[import-not-found]

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer  # type: ignore[import-not-found]

    Gst.init(None)
    sources = []

    def configured(factory, media):
        sources.append(media.get_element().get_by_name("grey"))

    def paint():
        level = level_at(time.time())
        for source in sources:
            # Over black of 16, in units of 255.
            source.set_property("brightness", level * 219 / 255 / 255)
        return True

    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(port))
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        "( videotestsrc is-live=true pattern=black "
        f"! video/x-raw,format=I420,width={width},height={height},framerate=25/1 ! videobalance name=grey "
        "! x264enc tune=zerolatency speed-preset=ultrafast quantizer=15 pass=qual key-int-max=25 "
        "! rtph264pay name=pay0 pt=96 )"
    )
    factory.set_shared(True)
    factory.connect("media-configure", configured)
    sound = GstRtspServer.RTSPMediaFactory()
    sound.set_launch("( audiotestsrc is-live=true ! mulawenc ! rtppcmupay name=pay0 )")
    server.get_mount_points().add_factory("/live", factory)
    server.get_mount_points().add_factory("/sound", sound)
    server.attach(None)
    GLib.timeout_add(10, paint)
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    GLib.MainLoop().run()


if __name__ == "__main__":
    main(int(sys.argv[1]), *(map(int, sys.argv[2:4]) if len(sys.argv) > 2 else (64, 48)))
