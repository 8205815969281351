//! One connection to a collector, in the clear or by TLS, that knows how much of what was written the other host confirmed.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// To connect, TLS included.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the other end may confirm nothing (`TCP_USER_TIMEOUT`, ms), and how a silent one is asked (s).
const UNCONFIRMED: u32 = 20_000;
const KEEP_ALIVE: (u32, u32, u32) = (30, 10, 3);
/// Bytes that may be unconfirmed; the kernel doubles it.
const SEND_BUFFER: usize = 128 << 10;

/// TLS to one collector.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
}

trait Both: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Both for T {}

/// An open connection.
pub(super) struct Connection {
    stream: Box<dyn Both>,
    /// The same socket, to ask about it.
    socket: OwnedFd,
    /// Bytes that the kernel took.
    taken: Arc<AtomicU64>,
}

impl Connection {
    pub(super) async fn open(to: SocketAddr, tls: Option<&Tls>) -> io::Result<Self> {
        tokio::time::timeout(PATIENCE, Self::connect(to, tls)).await?
    }

    async fn connect(to: SocketAddr, tls: Option<&Tls>) -> io::Result<Self> {
        let tcp = TcpStream::connect(to).await?;
        tcp.set_nodelay(true)?;
        let (idle, interval, count) = KEEP_ALIVE;
        setsockopt(&tcp, sockopt::KeepAlive, &true)?;
        setsockopt(&tcp, sockopt::TcpKeepIdle, &idle)?;
        setsockopt(&tcp, sockopt::TcpKeepInterval, &interval)?;
        setsockopt(&tcp, sockopt::TcpKeepCount, &count)?;
        setsockopt(&tcp, sockopt::TcpUserTimeout, &UNCONFIRMED)?;
        setsockopt(&tcp, sockopt::SndBuf, &SEND_BUFFER)?;
        let socket = tcp.as_fd().try_clone_to_owned()?;
        let taken = Arc::new(AtomicU64::new(0));
        let counted = Counted { tcp, taken: Arc::clone(&taken) };
        let stream: Box<dyn Both> = match tls {
            None => Box::new(counted),
            Some(tls) => {
                let connector = TlsConnector::from(Arc::clone(&tls.config));
                Box::new(connector.connect(tls.name.clone(), counted).await?)
            }
        };
        Ok(Self { stream, socket, taken })
    }

    /// Hands all of it to the kernel.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Returns when the other end is gone. What it says is thrown away: syslog has no answers.
    pub(super) async fn closed(&mut self) -> io::Error {
        let mut ignored = [0; 512];
        loop {
            match self.stream.read(&mut ignored).await {
                Ok(0) => {
                    return io::Error::new(
                        io::ErrorKind::ConnectionReset,
                        "the collector closed the connection",
                    );
                }
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    }

    /// Says the end, as TLS wants it.
    pub(super) async fn close(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Bytes that were written so far, in the kernel's count.
    pub(super) fn written(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Of these, what the other host confirmed.
    pub(super) fn confirmed(&self) -> u64 {
        let open = flowtag_kernel::socket_queue::unconfirmed(self.socket.as_fd()).unwrap_or(usize::MAX);
        self.written().saturating_sub(open as u64)
    }
}

/// Counts what goes into the socket.
struct Counted {
    tcp: TcpStream,
    taken: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, buf);
        if let Poll::Ready(Ok(number)) = written {
            self.taken.fetch_add(number as u64, Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
