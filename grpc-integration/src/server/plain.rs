//! A connection in plain text: requests are rewritten as they are read, calls are counted, and its age is bounded.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use super::age::{Age, MaxAge};
use super::authority::AuthorityRewriter;
use super::calls::CallCounter;
use super::cutter::ConnectionState;

/// What is done to the connections of a server.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlainConfig {
    pub(super) rewrite_authority: bool,
    pub(super) max_age: Option<MaxAge>,
}

/// A stream of plain HTTP/2.
#[derive(Debug)]
pub(super) struct Plain<S> {
    stream: S,
    rewriter: Option<AuthorityRewriter>,
    calls: CallCounter,
    age: Option<Box<Age>>,
}

impl<S> Plain<S> {
    pub(super) fn new(stream: S, connection: Arc<ConnectionState>, config: PlainConfig) -> Self {
        Self {
            stream,
            rewriter: config.rewrite_authority.then(AuthorityRewriter::default),
            calls: CallCounter::new(connection),
            age: config.max_age.map(|max| Box::new(Age::new(max))),
        }
    }
}

impl<S: AsyncWrite + Unpin> Plain<S> {
    /// Follows the age of the connection; an error when its grace is over. Every operation does, because the task may
    /// wait in any of them: h2 reads nothing while it cannot write.
    fn grow_old(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Self { age: Some(age), calls, .. } = self else { return Ok(()) };
        // Of another protocol there is no GOAWAY to end it with.
        if calls.is_other() || !age.poll_over(cx) {
            return Ok(());
        }
        let calls = calls.calls();
        tracing::info!(calls, "connection closed; the grace after its maximum age is over");
        let why = "closed: the grace after its maximum age is over";
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    }

    /// Writes GOAWAY if it is due here; returns how much may be written before it is.
    fn poll_goaway(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<usize>>> {
        if let Some(age) = self.age.as_mut().filter(|age| age.owes_goaway()) {
            match self.calls.until_boundary() {
                Some(0) => ready!(age.poll_write_goaway(&mut self.stream, cx))?,
                until => return Poll::Ready(Ok(until)),
            }
        }
        Poll::Ready(Ok(None))
    }
}

impl<S: Connected> Connected for Plain<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.stream.connect_info()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Plain<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.grow_old(cx)?;
        // Where it cannot be written now, the task is woken when it can.
        if let Poll::Ready(Err(error)) = self.poll_goaway(cx) {
            return Poll::Ready(Err(error));
        }
        let Self { stream, rewriter, calls, .. } = &mut *self;
        let before = buf.filled().len();
        ready!(match rewriter {
            Some(rewriter) => {
                rewriter.poll_read(cx, buf, |cx, buf| Pin::new(&mut *stream).poll_read(cx, buf))
            }
            None => Pin::new(stream).poll_read(cx, buf),
        })?;
        calls.on_read(buf.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Plain<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.grow_old(cx)?;
        let most = ready!(self.poll_goaway(cx))?.unwrap_or(buf.len());
        let buf = buf.get(..most).unwrap_or(buf);
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.calls.on_written(buf.get(..written).unwrap_or_default());
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.grow_old(cx)?;
        if self.age.as_ref().is_some_and(|age| age.owes_goaway()) {
            let first = bufs.iter().find(|buf| !buf.is_empty());
            return self.poll_write(cx, first.map_or(&[], |buf| buf));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        let mut left = written;
        for buf in bufs {
            let of_it = buf.len().min(left);
            self.calls.on_written(&buf[..of_it]);
            left -= of_it;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.grow_old(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.grow_old(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::{Instant, sleep, timeout};

    use super::*;
    use crate::http2::frame::{CONTINUATION, DATA, END_HEADERS, GOAWAY, HEADERS, SETTINGS, frame};
    use crate::http2::frames::Frames;

    const AGE: Duration = Duration::from_secs(100);
    const GRACE: Duration = Duration::from_secs(10);

    /// The server's end of a connection over which so many bytes fit at once, and the client's.
    fn connection(capacity: usize, grace: Option<Duration>) -> (Plain<DuplexStream>, DuplexStream) {
        let (server, client) = duplex(capacity);
        let max_age = Some(MaxAge { age: AGE, grace });
        let config = PlainConfig { rewrite_authority: true, max_age };
        (Plain::new(server, Arc::default(), config), client)
    }

    /// The kinds and streams of the frames that have arrived.
    async fn received(client: &mut DuplexStream) -> Vec<(u8, u32)> {
        let (mut bytes, mut seen) = (Vec::new(), Vec::new());
        client.read_to_end(&mut bytes).await.unwrap();
        let mut frames = Frames::of_server();
        frames.follow(&bytes, |frame| seen.push((frame.kind, frame.stream)));
        assert_eq!(frames.until_boundary(), Some(0));
        seen
    }

    /// hyper's way: one task that reads and writes.
    async fn reads(server: &mut Plain<DuplexStream>) -> io::Result<usize> {
        server.read(&mut [0; 64]).await
    }

    #[tokio::test(start_paused = true)]
    async fn goaway_is_sent_once_to_an_idle_client_at_the_age_with_its_jitter() {
        let (mut server, mut client) = connection(1024, None);
        server.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        let began = Instant::now();
        let reading = tokio::spawn(async move { reads(&mut server).await });
        let mut bytes = [0; 9 + 17];
        client.read_exact(&mut bytes).await.unwrap();
        assert!(began.elapsed() >= AGE.mul_f64(0.9) && began.elapsed() <= AGE.mul_f64(1.1));
        let goaway = [&[0, 0, 8, GOAWAY, 0, 0, 0, 0, 0][..], &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]].concat();
        assert_eq!(bytes[9..], goaway);
        sleep(100 * AGE).await;
        assert!(!reading.is_finished(), "without a grace the connection stays");
        client.shutdown().await.unwrap();
        assert_eq!(reading.await.unwrap().unwrap(), 0);
        assert_eq!(client.read(&mut bytes).await.unwrap(), 0, "there was one");
    }

    /// What is half written when the age is reached, over a connection that takes a few bytes at a time.
    #[tokio::test(start_paused = true)]
    async fn goaway_is_put_between_two_frames() {
        let (settings, data) = (frame(SETTINGS, 0, 0, &[0; 6]), frame(DATA, 0, 1, &[7; 50]));
        let part_of_a_frame = data.len() - 20;
        between(&[&settings, &data], part_of_a_frame, &[(SETTINGS, 0), (DATA, 1)]).await;
        // A block of headers is never interrupted: it would be a connection error.
        let block = [
            frame(HEADERS, 0, 1, &[7; 50]),
            frame(CONTINUATION, 0, 1, &[7; 50]),
            frame(CONTINUATION, END_HEADERS, 1, &[7; 50]),
        ];
        let frames = [&settings[..], &block[0], &block[1], &block[2]];
        let expected = [(SETTINGS, 0), (HEADERS, 1), (CONTINUATION, 1), (CONTINUATION, 1)];
        for written in [20, block[0].len(), block[0].len() + 4, block[0].len() + block[1].len()] {
            between(&frames, written, &expected).await;
        }
    }

    /// The age is reached when the first of `frames` is written, and so many bytes after it. GOAWAY comes after all of them,
    /// which are `expected`, and before more.
    async fn between(frames: &[&[u8]], written: usize, expected: &[(u8, u32)]) {
        for capacity in [1, 5, 9, 17, 64] {
            for vectored in [false, true] {
                let (mut server, mut client) = connection(capacity, None);
                let got = tokio::spawn(async move { received(&mut client).await });
                let bytes = frames.concat();
                let (head, half) = bytes.split_at(frames[0].len() + written);
                server.write_all(head).await.unwrap();
                assert!(timeout(2 * AGE, reads(&mut server)).await.is_err(), "nothing is read");
                // The rest of it, and more, at once.
                let rest = [half, &frame(DATA, 0, 1, &[7; 50]), &frame(DATA, 1, 1, &[])].concat();
                let mut left = &rest[..];
                while !left.is_empty() {
                    let (first, second) = left.split_at(left.len() / 2);
                    let bufs = [IoSlice::new(&[]), IoSlice::new(first), IoSlice::new(second)];
                    let written =
                        if vectored { server.write_vectored(&bufs).await } else { server.write(left).await };
                    left = &left[written.unwrap()..];
                }
                drop(server);
                let expected = [expected, &[(GOAWAY, 0), (DATA, 1), (DATA, 1)]].concat();
                assert_eq!(got.await.unwrap(), expected, "{written} {capacity} {vectored}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_when_its_grace_is_over_also_if_nothing_can_be_written() {
        // So small that GOAWAY does not fit.
        let (mut server, _client) = connection(9, Some(GRACE));
        server.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        let began = Instant::now();
        let error = reads(&mut server).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= AGE.mul_f64(0.9) + GRACE && began.elapsed() <= AGE.mul_f64(1.1) + GRACE);
    }

    /// h2 neither reads nor does anything else while it cannot write, for example to a client that pings and does not read.
    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_when_its_grace_is_over_whatever_its_task_waits_in() {
        for vectored in [false, true] {
            let (mut server, _client) = connection(20, Some(GRACE));
            server.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
            let began = Instant::now();
            let data = frame(DATA, 0, 1, &[7; 50]);
            let error = loop {
                let write = async {
                    match vectored {
                        true => server.write_vectored(&[IoSlice::new(&data)]).await,
                        false => server.write(&data).await,
                    }
                };
                if let Err(error) = timeout(10 * AGE, write).await.expect("it ends") {
                    break error;
                }
            };
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            let took = began.elapsed();
            assert!(took >= AGE.mul_f64(0.9) + GRACE && took <= AGE.mul_f64(1.1) + GRACE, "{took:?}");
        }
        // The pipe of this test never makes these wait.
        let (mut server, _client) = connection(1024, Some(GRACE));
        sleep(2 * AGE).await;
        server.flush().await.unwrap();
        sleep(GRACE).await;
        assert_eq!(server.flush().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(server.shutdown().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn goaway_is_sent_to_a_client_that_reads_late() {
        let (mut server, mut client) = connection(20, None);
        let writing = tokio::spawn(async move {
            server.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
            server.write_all(&frame(DATA, 0, 1, &[7; 50])).await.unwrap();
            server.write_all(&frame(DATA, 1, 1, &[])).await.unwrap();
        });
        sleep(2 * AGE).await;
        let received = timeout(AGE, received(&mut client)).await.expect("all of it");
        assert_eq!(received, [(SETTINGS, 0), (DATA, 1), (GOAWAY, 0), (DATA, 1)]);
        writing.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_of_another_protocol_has_no_maximum_age() {
        let (mut server, mut client) = connection(1024, Some(GRACE));
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(reads(&mut server).await.unwrap() > 0);
        server.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        assert!(timeout(10 * AGE, reads(&mut server)).await.is_err());
        drop(server);
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, b"HTTP/1.1 200 OK\r\n\r\n");
    }
}
