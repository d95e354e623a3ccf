//! Where lines come from: a file or the standard input, plain, gzipped, or a tar of logs; told by its first bytes.
//!
//! Everything streams. Held in memory are one line and the buffers of the decoders.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::ops::ControlFlow;

use flate2::read::MultiGzDecoder;

/// Longer lines are cut off and counted as malformed.
const LINE_BYTES_MAX: usize = 64 << 10;
/// A gzipped tar of gzipped logs is three.
const DEPTH_MAX: u32 = 4;
const HEAD_BYTES: u64 = 512;

/// What is found on the way.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// A log begins; its name.
    Log(&'a str),
    /// A line without its end.
    Line(&'a [u8]),
    /// The head of a line that is too long.
    TooLong(&'a [u8]),
}

/// Is given what is found, and may stop.
pub(crate) type Sink<'s> = dyn FnMut(Found<'_>) -> ControlFlow<()> + 's;

/// Opens a file, or the standard input for `-`. Answers its size too, where there is one.
pub(crate) fn open(path: &str) -> io::Result<(Box<dyn Read + Send>, Option<u64>)> {
    if path == "-" {
        return Ok((Box::new(io::stdin()), None));
    }
    let about = |error| with_name(path, &error);
    let file = File::open(path).map_err(about)?;
    let metadata = file.metadata().map_err(about)?;
    if metadata.is_dir() {
        return Err(with_name(path, &io::Error::new(io::ErrorKind::IsADirectory, "a directory; name a file in it")));
    }
    Ok((Box::new(file), metadata.is_file().then_some(metadata.len())))
}

/// Reads all lines of all logs in `input`.
///
/// # Errors
/// What could not be read or unpacked, by name; what was found before has been given to `sink`.
pub(crate) fn read(name: &str, input: &mut dyn Read, sink: &mut Sink<'_>) -> io::Result<()> {
    read_layer(name, input, DEPTH_MAX, sink).map(|_| ())
}

fn read_layer(name: &str, input: &mut dyn Read, depth: u32, sink: &mut Sink<'_>) -> io::Result<ControlFlow<()>> {
    let about = |error| with_name(name, &error);
    let mut head = Vec::new();
    (&mut *input).take(HEAD_BYTES).read_to_end(&mut head).map_err(about)?;
    let is_gzip = head.starts_with(&[0x1F, 0x8B]);
    let is_tar = head.get(257..262) == Some(b"ustar");
    let mut whole = Cursor::new(head).chain(input);
    if !is_gzip && !is_tar {
        return read_log(name, &mut BufReader::with_capacity(128 << 10, whole), sink).map_err(about);
    }
    if depth == 0 {
        return Err(with_name(name, &io::Error::new(io::ErrorKind::InvalidData, "packed too many times over")));
    }
    if is_gzip {
        return read_layer(name, &mut MultiGzDecoder::new(BufReader::new(whole)), depth - 1, sink);
    }
    let mut archive = tar::Archive::new(&mut whole);
    for entry in archive.entries().map_err(about)? {
        let mut entry = entry.map_err(about)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let inner = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if read_layer(&inner, &mut entry, depth - 1, sink)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn read_log(name: &str, input: &mut dyn BufRead, sink: &mut Sink<'_>) -> io::Result<ControlFlow<()>> {
    if sink(Found::Log(name)).is_break() {
        return Ok(ControlFlow::Break(()));
    }
    let mut line = Vec::new();
    loop {
        line.clear();
        // One more for the line's end.
        let bound = LINE_BYTES_MAX as u64 + 1;
        if input.take(bound).read_until(b'\n', &mut line)? == 0 {
            return Ok(ControlFlow::Continue(()));
        }
        let found = if line.last() == Some(&b'\n') || line.len() <= LINE_BYTES_MAX {
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            // Empty lines separate nothing and mean nothing.
            if line.is_empty() {
                continue;
            }
            Found::Line(line)
        } else {
            input.skip_until(b'\n')?;
            Found::TooLong(&line)
        };
        if sink(found).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
}

fn with_name(name: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", name.escape_debug()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn found(mut bytes: &[u8]) -> io::Result<Vec<String>> {
        let mut all = Vec::new();
        read("top", &mut bytes, &mut |found| {
            all.push(match found {
                Found::Log(name) => format!("log {name}"),
                Found::Line(line) => String::from_utf8_lossy(line).into_owned(),
                Found::TooLong(line) => format!("{} and more", line.len()),
            });
            ControlFlow::Continue(())
        })?;
        Ok(all)
    }

    #[test]
    fn every_wrapping_is_unpacked() {
        let plain = b"one\r\n\ntwo";
        let lines = ["log top", "one", "two"];
        assert_eq!(found(plain).unwrap(), lines);
        assert_eq!(found(&gzip(plain)).unwrap(), lines);
        // Two gzip members in a row are one stream, as `cat a.gz b.gz` makes it.
        assert_eq!(found(&[gzip(b"one\n"), gzip(b"two\n")].concat()).unwrap(), lines);
        let archive = tar(&[("a", b"one\n"), ("b.gz", &gzip(b"two"))]);
        let logs = ["log a", "one", "log b.gz", "two"];
        assert_eq!(found(&archive).unwrap(), logs);
        assert_eq!(found(&gzip(&archive)).unwrap(), logs);
        assert_eq!(found(b"").unwrap(), ["log top"]);
    }

    #[test]
    fn a_line_without_end_is_cut_and_the_next_is_read() {
        let mut bytes = vec![b'x'; 3 * LINE_BYTES_MAX];
        bytes.extend_from_slice(b"\nnext\n");
        assert_eq!(found(&bytes).unwrap(), ["log top", "65537 and more", "next"]);
        let mut fits = vec![b'x'; LINE_BYTES_MAX];
        fits.extend_from_slice(b"\nnext");
        assert_eq!(found(&fits).unwrap()[2], "next");
    }

    #[test]
    fn damage_is_an_error_with_the_name() {
        let packed = gzip(&b"line\n".repeat(1_000));
        let error = found(&packed[..packed.len() / 2]).unwrap_err();
        assert!(error.to_string().starts_with("top: "), "{error}");
        let deep = (0..6).fold(b"x".to_vec(), |bytes, _| gzip(&bytes));
        assert!(found(&deep).unwrap_err().to_string().contains("too many times"));
        assert!(found(&tar(&[("a", &[b'x'; 2_000])])[..1_500]).is_err());
    }

    #[test]
    fn a_sink_may_stop() {
        let mut lines = 0;
        let mut bytes = &b"1\n2\n3\n"[..];
        read("top", &mut bytes, &mut |found| {
            lines += usize::from(matches!(found, Found::Line(_)));
            if lines == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        assert_eq!(lines, 2);
    }
}
