//! Container logs in the CRI format: `<RFC 3339 time> <stdout|stderr> <P|F> <text>`, one entry a line.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use jiff::Timestamp;

/// The runtime cuts lines at 16 KiB; this leaves room for runtimes that do not.
const LONGEST_LINE: usize = 1 << 20;

/// One line of a log file, without its newline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) time: &'a str,
    pub(crate) stderr: bool,
    /// False: the next entry of the same stream continues this one.
    pub(crate) complete: bool,
    pub(crate) text: &'a [u8],
}

impl Entry<'_> {
    pub(crate) fn timestamp(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }
}

/// Reads one line; `None` for one that is not in the format.
pub(crate) fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok().filter(|time| !time.is_empty())?;
    let stderr = match parts.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    // Tags are separated by colons; the first says partial or full.
    let complete = match parts.next()?.split(|byte| *byte == b':').next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    Some(Entry { time, stderr, complete, text: parts.next()? })
}

/// What of a log is wanted; the query of the container log endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogOptions {
    pub(crate) follow: bool,
    pub(crate) previous: bool,
    pub(crate) timestamps: bool,
    pub(crate) tail_lines: Option<u64>,
    pub(crate) limit_bytes: Option<u64>,
    pub(crate) since: Option<Timestamp>,
    /// `Stdout` or `Stderr` only.
    pub(crate) stderr_only: Option<bool>,
}

/// Turns a growing log file into the bytes for the reader, entry by entry.
#[derive(Debug)]
pub(crate) struct Renderer {
    options: LogOptions,
    left: Option<u64>,
    /// Per stream: whether the last entry was partial, so that no second timestamp is put into one line.
    continues: [bool; 2],
    pending: Vec<u8>,
}

impl Renderer {
    pub(crate) fn new(options: LogOptions) -> Self {
        let left = options.limit_bytes;
        Self { options, left, continues: [false; 2], pending: Vec::new() }
    }

    /// Whether the byte limit is reached.
    pub(crate) fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// Takes what was read from the file and appends what the reader gets to `out`.
    pub(crate) fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.pending.extend_from_slice(bytes);
        let mut from = 0;
        let pending = std::mem::take(&mut self.pending);
        while let Some(length) = pending[from..].iter().position(|byte| *byte == b'\n') {
            if let Some(entry) = parse(&pending[from..from + length]) {
                self.render(&entry, out);
            }
            from += length + 1;
        }
        // A line without an end is none of the runtime's: it is not kept for ever.
        if pending.len() - from <= LONGEST_LINE {
            self.pending = pending[from..].to_vec();
        }
    }

    fn render(&mut self, entry: &Entry<'_>, out: &mut Vec<u8>) {
        if self.options.stderr_only.is_some_and(|only| only != entry.stderr) {
            return;
        }
        if let Some(since) = self.options.since
            && entry.timestamp().is_none_or(|time| time < since)
        {
            return;
        }
        let continues = &mut self.continues[usize::from(entry.stderr)];
        let mut line = Vec::with_capacity(entry.text.len() + 40);
        if self.options.timestamps && !*continues {
            line.extend_from_slice(entry.time.as_bytes());
            line.push(b' ');
        }
        *continues = !entry.complete;
        line.extend_from_slice(entry.text);
        if entry.complete {
            line.push(b'\n');
        }
        if let Some(left) = &mut self.left {
            line.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= line.len() as u64;
        }
        out.append(&mut line);
    }
}

/// Where the last `lines` full lines of a log begin.
pub(crate) fn tail_offset(file: &mut File, lines: u64) -> std::io::Result<u64> {
    const BLOCK: u64 = 64 * 1024;
    let mut end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(end);
    }
    // The newline at the very end closes the last line, it does not begin one.
    let mut missing = lines + 1;
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(start))?;
        block.clear();
        file.take(end - start).read_to_end(&mut block)?;
        for (position, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            missing -= 1;
            if missing == 0 {
                return Ok(start + position as u64 + 1);
            }
        }
        end = start;
    }
    Ok(0)
}

/// The text of the last lines of a log, for termination messages.
pub(crate) fn tail_text(path: &Path, lines: usize, bytes: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let offset = tail_offset(&mut file, lines as u64)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut raw = Vec::new();
        file.take(1 << 20).read_to_end(&mut raw)?;
        let mut out = Vec::new();
        Renderer::new(LogOptions::default()).feed(&raw, &mut out);
        let keep = out.len().saturating_sub(usize::try_from(bytes).unwrap_or(usize::MAX));
        Ok(out.split_off(keep))
    };
    read().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LOG: &[u8] = b"2024-01-01T00:00:00.1Z stdout F one\n2024-01-01T00:00:01Z stderr P tw\n2024-01-01T00:00:01.5Z stderr F o\n2024-01-01T00:00:02Z stdout F \n";

    fn render(options: LogOptions, log: &[u8]) -> String {
        let mut out = Vec::new();
        let mut renderer = Renderer::new(options);
        // Byte by byte: a read may end anywhere.
        for byte in log {
            renderer.feed(&[*byte], &mut out);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn partial_entries_are_joined() {
        assert_eq!(render(LogOptions::default(), LOG), "one\ntwo\n\n");
    }

    #[test]
    fn timestamps_stand_once_a_line() {
        let options = LogOptions { timestamps: true, ..Default::default() };
        assert_eq!(
            render(options, LOG),
            "2024-01-01T00:00:00.1Z one\n2024-01-01T00:00:01Z two\n2024-01-01T00:00:02Z \n"
        );
    }

    #[test]
    fn since_and_limit_cut() {
        let since = Some("2024-01-01T00:00:01Z".parse().unwrap());
        assert_eq!(render(LogOptions { since, ..Default::default() }, LOG), "two\n\n");
        assert_eq!(render(LogOptions { limit_bytes: Some(5), ..Default::default() }, LOG), "one\nt");
    }

    #[test]
    fn lines_out_of_format_are_skipped() {
        assert_eq!(render(LogOptions::default(), b"garbage\n\n2024 stdout X a\n2024 stdout F ok\n"), "ok\n");
    }

    #[test]
    fn the_tail_begins_at_a_line() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"a\nbb\nccc\n").unwrap();
        let offsets = [0, 1, 2, 3, 9].map(|lines| tail_offset(&mut file, lines).unwrap());
        assert_eq!(offsets, [9, 5, 2, 0, 0]);
    }
}
