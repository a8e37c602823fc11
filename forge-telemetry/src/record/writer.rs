//! The thread that appends spans to their file, one line each.

use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use forge_core::{Error, ErrorKind, Result};

use super::RecordedSpan;

/// Lines that may wait for the disk; a caller beyond that waits, no span is dropped.
const QUEUE: usize = 4096;

/// Owns the thread. A drop writes what is queued, then ends it.
pub(super) struct Writer {
    /// `None` only while it is dropped: the thread ends when its channel does.
    lines: Option<SyncSender<Line>>,
    thread: Option<JoinHandle<()>>,
    dropped: Arc<AtomicU64>,
}

enum Line {
    Span(Box<RecordedSpan>),
    Flush(Sender<()>),
}

impl Writer {
    /// Appends to a file. A line that a crash tore off is ended first, so that it does not swallow ours.
    pub(super) fn open(path: &Path) -> Result<Self> {
        open(path).and_then(|(file, torn)| Self::start(file, torn)).map_err(|e| {
            Error::new(
                ErrorKind::Unavailable,
                "spans.open",
                "the file of spans cannot be opened; check directory, owner and mode",
            )
            .with_source(e)
        })
    }

    fn start(to: impl Write + Send + 'static, torn: bool) -> io::Result<Self> {
        let (lines, queued) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let count = dropped.clone();
        let run = move || write(to, torn, &queued, &count);
        let thread = std::thread::Builder::new().name("forge-spans".into()).spawn(run)?;
        Ok(Self { lines: Some(lines), thread: Some(thread), dropped })
    }

    pub(super) fn append(&self, span: RecordedSpan) {
        if !self.send(Line::Span(Box::new(span))) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn flush(&self) {
        let (done, wait) = channel();
        if self.send(Line::Flush(done)) {
            // an error means that the thread is gone, and everything before it written or counted
            let _ = wait.recv();
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn send(&self, line: Line) -> bool {
        self.lines.as_ref().is_some_and(|lines| lines.send(line).is_ok())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.lines = None;
        if let Some(thread) = self.thread.take() {
            // a panic in it was reported by the panic hook
            let _ = thread.join();
        }
    }
}

/// The file, and whether its last line is torn.
fn open(path: &Path) -> io::Result<(std::fs::File, bool)> {
    let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok((file, false));
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok((file, last != *b"\n"))
}

fn write(mut to: impl Write, mut torn: bool, queued: &Receiver<Line>, dropped: &AtomicU64) {
    while let Ok(line) = queued.recv() {
        match line {
            Line::Span(span) => match append(&mut to, torn, &span) {
                Ok(()) => torn = false,
                Err(e) => {
                    torn = true;
                    // a full disk would say so for every span
                    if dropped.fetch_add(1, Ordering::Relaxed) == 0 {
                        tracing::warn!(error = %e, "a span could not be written; this and those that follow are counted");
                    }
                }
            },
            Line::Flush(done) => drop(done.send(())),
        }
    }
}

/// One call a line: a crash tears at most the last one.
fn append(to: &mut impl Write, torn: bool, span: &RecordedSpan) -> io::Result<()> {
    let mut text = if torn { b"\n".to_vec() } else { Vec::new() };
    serde_json::to_writer(&mut text, span)?;
    text.push(b'\n');
    to.write_all(&text)
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    fn span(name: &str) -> RecordedSpan {
        let (trace_id, span_id, parent_span_id) = ("a".repeat(32), "b".repeat(16), "0".repeat(16));
        let attributes = std::collections::BTreeMap::new();
        RecordedSpan {
            trace_id,
            span_id,
            parent_span_id,
            name: name.into(),
            start: 1,
            end: 2,
            closed: true,
            attributes,
        }
    }

    /// A disk that is shared with the test: it waits for a word before it takes anything, and fills up after so many bytes.
    #[derive(Clone)]
    struct Disk {
        bytes: Arc<Mutex<Vec<u8>>>,
        go: Arc<Mutex<Receiver<()>>>,
        room: Arc<Mutex<usize>>,
    }

    impl Disk {
        fn new(room: usize) -> (Self, Sender<()>) {
            let (send, go) = channel();
            (Self { bytes: Arc::default(), go: Arc::new(Mutex::new(go)), room: Arc::new(Mutex::new(room)) }, send)
        }

        fn text(&self) -> String {
            String::from_utf8(self.bytes.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Disk {
        fn write(&mut self, part: &[u8]) -> io::Result<usize> {
            // an error means that the test gave up its end: no need to wait any more
            let _ = self.go.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let mut room = self.room.lock().unwrap();
            let n = part.len().min(*room);
            *room -= n;
            self.bytes.lock().unwrap().extend_from_slice(&part[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Long enough for another thread to do what it must not.
    fn give_way() {
        (0..2000).for_each(|_| std::thread::yield_now());
    }

    #[test]
    fn a_drop_waits_until_everything_is_written() {
        let (disk, go) = Disk::new(usize::MAX);
        let writer = Writer::start(disk.clone(), false).unwrap();
        for n in 0..100 {
            writer.append(span(&n.to_string()));
        }
        assert_eq!(disk.text(), "", "the disk has not moved yet");
        let dropping = std::thread::spawn(move || drop(writer));
        give_way();
        assert!(!dropping.is_finished());
        drop(go);
        dropping.join().unwrap();
        assert_eq!(disk.text().lines().count(), 100);
    }

    #[test]
    fn what_the_disk_refuses_is_counted_and_what_follows_is_whole() {
        let one = serde_json::to_string(&span("1")).unwrap().len() + 1;
        let (disk, go) = Disk::new(one + 10);
        drop(go);
        let writer = Writer::start(disk.clone(), false).unwrap();
        for name in ["1", "2", "3"] {
            writer.append(span(name));
        }
        writer.flush();
        assert_eq!(writer.dropped(), 2);
        *disk.room.lock().unwrap() = usize::MAX;
        writer.append(span("4"));
        writer.flush();
        let text = disk.text();
        let whole: Vec<_> =
            text.lines().filter_map(|l| serde_json::from_str::<RecordedSpan>(l).ok()).map(|s| s.name).collect();
        assert_eq!((whole, writer.dropped()), (vec!["1".to_owned(), "4".to_owned()], 2), "{text}");
    }

    #[test]
    fn a_full_queue_holds_the_caller_back_and_loses_nothing() {
        let (disk, go) = Disk::new(usize::MAX);
        let writer = Writer::start(disk.clone(), false).unwrap();
        let sent = AtomicU64::new(0);
        let count = || sent.load(Ordering::Relaxed);
        std::thread::scope(|s| {
            s.spawn(|| {
                for _ in 0..QUEUE + 100 {
                    writer.append(span("x"));
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
            // one is in the writer's hand, the queue is full behind it
            let held = u64::try_from(QUEUE + 1).unwrap();
            while count() < held {
                std::thread::yield_now();
            }
            give_way();
            assert_eq!(count(), held);
            drop(go);
        });
        writer.flush();
        assert_eq!((disk.text().lines().count(), writer.dropped()), (QUEUE + 100, 0));
    }
}
