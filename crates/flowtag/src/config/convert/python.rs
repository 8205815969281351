//! flowd's configuration, which is Python: read as assignments of literals and never run. What is anything else is given
//! back with its line.

use super::node::{Node, Value};

/// Brackets in brackets; flowd's own need two.
const MAX_DEPTH: u32 = 32;

/// One statement.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Statement {
    /// `NAME = literal`.
    Assignment { name: String, node: Node },
    /// Something that would have to be run.
    Other { line: u32, text: String, problem: &'static str },
}

pub(super) fn statements(text: &str) -> Vec<Statement> {
    let source = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader { source, rest: source, line: 1 };
    let mut statements = Vec::new();
    while let Some(statement) = reader.statement() {
        statements.push(statement);
    }
    statements
}

#[derive(Debug, Clone)]
struct Reader<'a> {
    source: &'a str,
    /// What was not read yet; its end is the end of `source`.
    rest: &'a str,
    line: u32,
}

type Parsed<T> = Result<T, &'static str>;

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let next = chars.next()?;
        self.rest = chars.as_str();
        self.line += u32::from(next == '\n');
        Some(next)
    }

    fn eat(&mut self, text: &str) -> bool {
        let found = self.rest.starts_with(text);
        if found {
            for _ in text.chars() {
                self.next();
            }
        }
        found
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(c) = self.peek().filter(|c| c.is_alphanumeric() || *c == '_') {
            word.push(c);
            self.next();
        }
        word
    }

    /// Blanks, continued lines and, within brackets, comments and ends of lines.
    fn blanks(&mut self, in_brackets: bool) {
        loop {
            match self.peek() {
                Some(' ' | '\t' | '\r' | '\u{c}') => drop(self.next()),
                Some('\n') if in_brackets => drop(self.next()),
                Some('#') if in_brackets => self.comment(),
                Some('\\') if self.rest.starts_with("\\\n") || self.rest.starts_with("\\\r\n") => {
                    while self.next() != Some('\n') {}
                }
                _ => return,
            }
        }
    }

    /// Up to the end of its line.
    fn comment(&mut self) {
        while self.peek().is_some_and(|c| c != '\n') {
            self.next();
        }
    }

    fn statement(&mut self) -> Option<Statement> {
        loop {
            let before = self.rest.len();
            self.blanks(true);
            let _ = self.eat(";");
            if self.rest.len() == before {
                break;
            }
        }
        self.peek()?;
        let start = self.clone();
        match self.assignment() {
            Ok(statement) => Some(statement),
            Err(problem) => {
                *self = start.clone();
                self.skip();
                let text = &start.rest[..start.rest.len() - self.rest.len()];
                let text = text.lines().next().unwrap_or_default().trim().chars().take(60).collect();
                Some(Statement::Other { line: start.line, text, problem })
            }
        }
    }

    /// Whether nothing but blanks is before it in its line.
    fn is_indented(&self) -> bool {
        let read = &self.source[..self.source.len() - self.rest.len()];
        let before = &read[read.rfind('\n').map_or(0, |end| end + 1)..];
        !before.is_empty() && before.trim().is_empty()
    }

    fn assignment(&mut self) -> Parsed<Statement> {
        const FORM: &str = "is not NAME = value with a text, number, list, tuple, dict, True, False or None";
        let line = self.line;
        if self.is_indented() {
            return Err("is indented: it belongs to a statement that would have to be run");
        }
        let name = self.word();
        self.blanks(false);
        if name.is_empty() || self.rest.starts_with("==") || !self.eat("=") {
            return Err(FORM);
        }
        self.blanks(false);
        let value = self.values_until_end()?;
        Ok(Statement::Assignment { name, node: Node { line, value } })
    }

    /// A value and the end of its line; with commas, a tuple without brackets.
    fn values_until_end(&mut self) -> Parsed<Value> {
        let mut values = vec![self.value(0)?];
        let mut is_tuple = false;
        loop {
            self.blanks(false);
            match self.peek() {
                Some('#') => self.comment(),
                None | Some('\n' | ';') => break,
                Some(',') => {
                    self.next();
                    is_tuple = true;
                    self.blanks(false);
                    if !matches!(self.peek(), None | Some('\n' | ';' | '#')) {
                        values.push(self.value(0)?);
                    }
                }
                Some(_) => return Err("is more than a value: it would have to be run"),
            }
        }
        Ok(if is_tuple { Value::List(values) } else { values.remove(0).value })
    }

    fn value(&mut self, depth: u32) -> Parsed<Node> {
        if depth > MAX_DEPTH {
            return Err("has too many brackets in brackets");
        }
        let line = self.line;
        let value = match self.peek() {
            Some('[') => self.list(']', depth)?.0,
            Some('(') => match self.list(')', depth)? {
                // Brackets around one value are only brackets.
                (mut values, false) if values.len() == 1 => return Ok(values.remove(0)),
                (values, _) => values,
            },
            Some('{') => return Ok(Node { line, value: self.dict(depth)? }),
            Some('\'' | '"') => return Ok(Node { line, value: Value::Text(self.texts(depth)?) }),
            Some(c) if c.is_ascii_digit() || "+-.".contains(c) => {
                return Ok(Node { line, value: self.number()? });
            }
            _ => return Ok(Node { line, value: self.named(depth)? }),
        };
        Ok(Node { line, value: Value::List(value) })
    }

    /// The values, and whether there was a comma.
    fn list(&mut self, end: char, depth: u32) -> Parsed<(Vec<Node>, bool)> {
        self.next();
        let (mut values, mut comma) = (Vec::new(), false);
        loop {
            self.blanks(true);
            if self.peek() == Some(end) {
                self.next();
                return Ok((values, comma));
            }
            if !values.is_empty() && !comma_between(self, &mut comma) {
                return Err("has something other than values and commas in brackets, or no end of them");
            }
            self.blanks(true);
            if self.peek() != Some(end) {
                values.push(self.value(depth + 1)?);
            }
        }
    }

    /// A dict; a set is a list.
    fn dict(&mut self, depth: u32) -> Parsed<Value> {
        self.next();
        let (mut entries, mut set, mut comma) = (Vec::new(), Vec::new(), false);
        loop {
            self.blanks(true);
            if self.eat("}") {
                return Ok(if set.is_empty() { Value::Map(entries) } else { Value::List(set) });
            }
            let is_first = entries.is_empty() && set.is_empty();
            if !is_first && !comma_between(self, &mut comma) {
                return Err("has something other than values and commas in braces, or no end of them");
            }
            self.blanks(true);
            if self.peek() == Some('}') {
                continue;
            }
            let key = self.value(depth + 1)?;
            self.blanks(true);
            if self.eat(":") {
                self.blanks(true);
                let name = match key.value {
                    Value::Text(text) => text,
                    other => other.to_string(),
                };
                entries.push((name, self.value(depth + 1)?));
            } else {
                set.push(key);
            }
        }
    }

    /// One or more, which Python puts together.
    fn texts(&mut self, depth: u32) -> Parsed<String> {
        let mut text = self.text(false)?;
        loop {
            self.blanks(depth > 0);
            if !matches!(self.peek(), Some('\'' | '"')) {
                return Ok(text);
            }
            text.push_str(&self.text(false)?);
        }
    }

    fn text(&mut self, raw: bool) -> Parsed<String> {
        const OPEN: &str = "has a text without an end";
        let quote =
            ["'''", "\"\"\"", "'", "\""].into_iter().find(|q| self.rest.starts_with(q)).ok_or(OPEN)?;
        self.eat(quote);
        let mut text = String::new();
        loop {
            if self.eat(quote) {
                return Ok(text);
            }
            match self.next().ok_or(OPEN)? {
                '\n' if quote.len() == 1 => return Err(OPEN),
                '\\' if raw => {
                    text.push('\\');
                    text.extend(self.next());
                }
                '\\' => self.escape(&mut text)?,
                c => text.push(c),
            }
        }
    }

    fn escape(&mut self, text: &mut String) -> Parsed<()> {
        const WRONG: &str = "has an escape sequence in a text that is not known";
        let digits = |reader: &mut Self, count: usize| {
            let digits = reader.rest.get(..count).ok_or(WRONG)?;
            let code = u32::from_str_radix(digits, 16).map_err(|_| WRONG)?;
            reader.eat(digits);
            char::from_u32(code).ok_or(WRONG)
        };
        let c = match self.next().ok_or(WRONG)? {
            '\n' => return Ok(()), // the text goes on in the next line
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            '0' => '\0',
            'x' => digits(self, 2)?,
            'u' => digits(self, 4)?,
            'U' => digits(self, 8)?,
            c @ ('\\' | '\'' | '"') => c,
            other if other.is_ascii_alphanumeric() => return Err(WRONG),
            other => {
                text.push('\\');
                other
            }
        };
        text.push(c);
        Ok(())
    }

    fn number(&mut self) -> Parsed<Value> {
        const WRONG: &str = "is not a number that is known";
        let minus = self.eat("-");
        let _ = !minus && self.eat("+");
        let part = |c: &char| c.is_ascii_alphanumeric() || "._".contains(*c);
        let mut digits = String::new();
        while let Some(c) = self.peek().filter(part) {
            let exponent = matches!(c, 'e' | 'E') && !digits.starts_with("0x");
            digits.extend((c != '_').then_some(c.to_ascii_lowercase()));
            self.next();
            if let Some(sign @ ('+' | '-')) = self.peek().filter(|_| exponent) {
                digits.push(sign);
                self.next();
            }
        }
        let based = [("0x", 16), ("0o", 8), ("0b", 2)].into_iter().find_map(|(prefix, base)| {
            digits.strip_prefix(prefix).map(|digits| i64::from_str_radix(digits, base))
        });
        let int = based.unwrap_or_else(|| digits.parse::<i64>());
        match (int, digits.parse::<f64>()) {
            (Ok(number), _) => Ok(Value::Int(if minus { -number } else { number })),
            (Err(_), Ok(number)) if digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') => {
                Ok(Value::Float(if minus { -number } else { number }))
            }
            _ => Err(WRONG),
        }
    }

    /// True, False, None, or a text with letters before it that say how it is written.
    fn named(&mut self, depth: u32) -> Parsed<Value> {
        let word = self.word();
        match word.as_str() {
            "True" => Ok(Value::Bool(true)),
            "False" => Ok(Value::Bool(false)),
            "None" => Ok(Value::Null),
            _ if matches!(self.peek(), Some('\'' | '"')) => match word.to_ascii_lowercase().as_str() {
                "u" => self.texts(depth).map(Value::Text),
                "r" => self.text(true).map(Value::Text),
                _ => Err("has a kind of text that would have to be run, or bytes"),
            },
            _ => Err("is not a literal value: it would have to be run"),
        }
    }

    /// To the end of a statement that was not understood.
    fn skip(&mut self) {
        let mut depth = 0_u32;
        while let Some(c) = self.peek() {
            match c {
                '\'' | '"' => {
                    let before = self.clone();
                    if self.text(false).is_err() {
                        *self = before;
                        self.next();
                    }
                    continue;
                }
                '#' => {
                    self.comment();
                    continue;
                }
                '\\' => drop(self.next()),
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth = depth.saturating_sub(1),
                '\n' if depth == 0 => return,
                _ => {}
            }
            self.next();
        }
    }
}

fn comma_between(reader: &mut Reader<'_>, comma: &mut bool) -> bool {
    let found = reader.eat(",");
    *comma |= found;
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values without their lines.
    fn shown(value: &Value) -> String {
        match value {
            Value::List(nodes) => {
                format!("[{}]", nodes.iter().map(|n| shown(&n.value)).collect::<Vec<_>>().join(", "))
            }
            Value::Map(entries) => {
                let entry = |(key, node): &(String, Node)| format!("{key}: {}", shown(&node.value));
                format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
            }
            other => other.to_string(),
        }
    }

    fn assigned(source: &str) -> Vec<(String, u32, String)> {
        let one = |statement| match statement {
            Statement::Assignment { name, node } => (name, node.line, shown(&node.value)),
            Statement::Other { line, text, problem } => (format!("!{text}"), line, problem.to_owned()),
        };
        statements(source).into_iter().map(one).collect()
    }

    #[test]
    fn literals_of_all_kinds_are_read() {
        for (source, expected) in [
            ("A='netstat'", r#""netstat""#),
            ("A = \"it's\" # comment", r#""it's""#),
            ("A = 'a' 'b'", r#""ab""#),
            ("A = r'\\d'", r#""\\d""#),
            ("A = u'x\\x41\\u00e9'", r#""xAé""#),
            ("A = '''one\ntwo'''", r#""one\ntwo""#),
            ("A = 10514", "10514"),
            ("A = 0x10 # hex", "16"),
            ("A = -1_000", "-1000"),
            ("A = 1.5e3", "1500"),
            ("A = True", "true"),
            ("A = None", "nothing"),
            ("A = ('192.168.0.0/16')", r#""192.168.0.0/16""#),
            ("A = ('192.168.0.0/16', )", r#"["192.168.0.0/16"]"#),
            ("A = 'a', 'b'", r#"["a", "b"]"#),
            ("A = [ # first\n 1,\n (2, 3), # more\n]", "[1, [2, 3]]"),
            ("A = {'a': 1, 2: [3],}", "{a: 1, 2: [3]}"),
            ("A = {1, 2}", "[1, 2]"),
            ("A = ()", "[]"),
            ("A = \\\n  5", "5"),
        ] {
            assert_eq!(assigned(source), [("A".to_owned(), 1, expected.to_owned())], "{source}");
        }
    }

    #[test]
    fn many_statements_have_their_lines() {
        let source = "\u{feff}# top\n\nA=1; B='x'\r\nC = (\n  1,\n)\n\nD=2";
        let lines: Vec<_> = assigned(source).into_iter().map(|(name, line, _)| (name, line)).collect();
        assert_eq!(lines, [("A".into(), 3), ("B".into(), 3), ("C".into(), 4), ("D".into(), 8)]);
    }

    #[test]
    fn what_would_have_to_be_run_is_told_and_the_rest_is_read() {
        let source = "import os\nA = os.environ['HOME']\nB = 1 + 1\nC = [x for x in (1,\n 2)]\nif True:\n    D = 'x'\n\
                      E = f'{A}'\nF == 1\nG = 'open\nH = b'x'\nI = print('a # b')\nJ = 7\n";
        let names: Vec<_> = assigned(source).into_iter().map(|(name, line, _)| (name, line)).collect();
        let expected = [
            ("!import os", 1),
            ("!A = os.environ['HOME']", 2),
            ("!B = 1 + 1", 3),
            ("!C = [x for x in (1,", 4),
            ("!if True:", 6),
            ("!D = 'x'", 7),
            ("!E = f'{A}'", 8),
            ("!F == 1", 9),
            ("!G = 'open", 10),
            ("!H = b'x'", 11),
            ("!I = print('a # b')", 12),
            ("J", 13),
        ];
        assert_eq!(names, expected.map(|(name, line)| (name.to_owned(), line)));
    }

    #[test]
    fn no_text_makes_it_panic_or_run_for_ever() {
        let deep = "A = ".to_owned() + &"[".repeat(100_000);
        assert!(matches!(statements(&deep).as_slice(), [Statement::Other { .. }]));
        for source in [
            "",
            "=",
            "\\",
            "A=",
            "A='",
            "A=\"\"\"",
            "A={",
            "A={1:",
            "(",
            "A=[1 2]",
            "\0",
            "é=1",
            "A='\\u12'",
            "A='\\xé'",
        ] {
            statements(source);
        }
        let all = "A=('\\x41\", [{1:2},-0x1]) # é\\\n;";
        for start in all.char_indices().map(|(i, _)| i) {
            for end in all.char_indices().map(|(i, _)| i).filter(|end| *end >= start) {
                statements(&all[start..end]);
            }
        }
    }
}
