//! Settings of HTTP/2.

use std::time::Duration;

use super::ChannelBuilder;

impl ChannelBuilder {
    /// Sets how many bytes of one response may arrive before they are read (HTTP/2's stream window), which bounds the
    /// memory of a stream that is not read: h2 adds some 300 bytes to each DATA frame, which is little unless a server
    /// sends tiny messages in frames of their own, as grpc-go does; then it is up to fifty times as much. Default 1 MiB, at
    /// least 64 KiB, at most 16 MiB.
    ///
    /// Over long distances a larger one is faster: a stream has one window per round trip at most. Measured at a round trip
    /// of 50 ms: 11 MiB/s with 1 MiB, 38 with 4 MiB, 112 with 16 MiB. The windows of all streams of a connection fit into
    /// that of the connection, which is always the largest, so that streams never hold each other back: at 1 MiB a
    /// connection has 2047 streams at most, at 16 MiB 127.
    pub fn stream_window(mut self, bytes: u32) -> Self {
        self.transport.stream_window = bytes.clamp(64 * 1024, 16 * 1024 * 1024);
        self
    }

    /// Sets the maximum size of a response's headers and of its trailers, with 32 bytes for each (HTTP/2's header
    /// list size). Of a response with more only the call fails, with RESOURCE_EXHAUSTED or INTERNAL; one of more
    /// than 2.5 times as much, and at least 40 MiB, may end its connection. Default 16 MiB.
    ///
    /// For the headers of requests the limit is the server's: one over what it has announced (tonic's servers announce
    /// 16 KiB) fails with RESOURCE_EXHAUSTED, unsent, and is not tried at another instance.
    pub fn max_response_headers(mut self, bytes: u32) -> Self {
        self.transport.max_response_headers = bytes;
        self
    }

    /// Sets after how long a silence a server that owes answers is pinged (HTTP/2 keep-alive, gRFC A8). Default 10 s;
    /// `None`: never.
    ///
    /// The silence is measured to half of this. Servers close connections on which they find too many pings, but not at
    /// the default settings here: at most two are sent in a row without an answer to a call in between, and then one in five
    /// minutes. So behind a watch that is silent for long, a server that freezes is detected within those five minutes and
    /// not sooner. Where a server closes a connection for too many pings nevertheless, the interval is doubled, up to
    /// sixteen times. At most a day.
    pub fn keepalive_interval(mut self, interval: Option<Duration>) -> Self {
        self.transport.keepalive.interval = interval;
        self
    }

    /// Sets how long a server may take to answer a keep-alive ping, or to send anything else, before its connection is
    /// closed and the calls on it fail with UNAVAILABLE. Default 10 s.
    pub fn keepalive_timeout(mut self, timeout: Duration) -> Self {
        self.transport.keepalive.timeout = timeout;
        self
    }

    /// Sets whether connections without a call are pinged as well, and at every interval. The server has to permit that:
    /// grpc-go and grpc-java do not by default. Default `false`.
    pub fn keepalive_while_idle(mut self, while_idle: bool) -> Self {
        self.transport.keepalive.while_idle = while_idle;
        self
    }
}
