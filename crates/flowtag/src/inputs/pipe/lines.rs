//! Bytes to lines, whatever the sizes of the writes. Holds at most one unfinished line.

use super::grammar::{LineError, MAX_LINE};

/// The beginning of a line whose end has not come yet.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
    /// The line is too long: what follows of it is thrown away.
    skipping: bool,
}

impl Lines {
    /// Gives `take` each line that `bytes` completes, without its newline; empty lines are passed over.
    pub(super) fn push(&mut self, bytes: &[u8], take: &mut impl FnMut(Result<&[u8], LineError>)) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            self.append(&rest[..end], take);
            self.end(take);
            rest = &rest[end + 1..];
        }
        self.append(rest, take);
    }

    /// The line ends here, with or without a newline.
    pub(super) fn end(&mut self, take: &mut impl FnMut(Result<&[u8], LineError>)) {
        if !self.partial.trim_ascii().is_empty() {
            take(Ok(&self.partial));
        }
        self.partial.clear();
        self.skipping = false;
    }

    fn append(&mut self, bytes: &[u8], take: &mut impl FnMut(Result<&[u8], LineError>)) {
        if self.skipping {
            return;
        }
        if self.partial.len() + bytes.len() <= MAX_LINE {
            self.partial.extend_from_slice(bytes);
        } else {
            self.partial.clear();
            self.skipping = true;
            take(Err(LineError::TooLong));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(writes: &[&[u8]]) -> Vec<Result<Vec<u8>, LineError>> {
        let mut lines = Lines::default();
        let mut taken = Vec::new();
        let mut take = |line: Result<&[u8], LineError>| taken.push(line.map(<[u8]>::to_vec));
        writes.iter().for_each(|bytes| lines.push(bytes, &mut take));
        lines.end(&mut take);
        taken
    }

    #[test]
    fn the_sizes_of_writes_do_not_matter() {
        let text = b"one\ntwo\n\n  \nthree\nlast without newline";
        let expected = ["one", "two", "three", "last without newline"].map(|l| Ok(l.as_bytes().to_vec()));
        for size in 1..=text.len() {
            let writes: Vec<_> = text.chunks(size).collect();
            assert_eq!(lines_of(&writes), expected, "writes of {size} bytes");
        }
    }

    #[test]
    fn a_line_without_end_is_one_error_and_the_next_line_counts() {
        let endless = vec![b'x'; 3 * MAX_LINE];
        let writes: Vec<&[u8]> = endless.chunks(1000).chain([b"y\nnext\n".as_slice()]).collect();
        assert_eq!(lines_of(&writes), [Err(LineError::TooLong), Ok(b"next".to_vec())]);
    }
}
