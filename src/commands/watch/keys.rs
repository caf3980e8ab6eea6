//! What the bytes of a keyboard ask for. Pure.

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// An end.
    Quit,
    /// A pause, as Control-Z makes one.
    Suspend,
    /// Another part of the table.
    Move(Step),
}

/// How far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A line.
    Up,
    /// A line.
    Down,
    /// A window.
    PageUp,
    /// A window.
    PageDown,
    /// To the first line.
    First,
    /// To the last line.
    Last,
}

/// Reads keys, which may come in pieces.
#[derive(Debug, Default)]
pub struct Keys {
    /// An escape sequence that is not over: what follows the escape.
    open: Option<Vec<u8>>,
}

/// Longest escape sequence that is waited for.
const LONGEST: usize = 8;

impl Keys {
    /// The commands of some more bytes; keys without a meaning are none.
    pub fn read(&mut self, bytes: &[u8]) -> Vec<Command> {
        bytes.iter().filter_map(|&byte| self.byte(byte)).collect()
    }

    fn byte(&mut self, byte: u8) -> Option<Command> {
        let Some(mut open) = self.open.take() else { return self.plain(byte) };
        // Control-C ends whatever was begun.
        if byte == 3 {
            return Some(Command::Quit);
        }
        if open.is_empty() && byte != b'[' && byte != b'O' {
            // The escape key itself, and then another one.
            return self.plain(byte);
        }
        open.push(byte);
        let is_over = open.len() > 1 && (0x40..=0x7e).contains(&byte);
        if is_over {
            return sequence(&open);
        }
        if open.len() < LONGEST {
            self.open = Some(open);
        }
        None
    }

    fn plain(&mut self, byte: u8) -> Option<Command> {
        match byte {
            b'q' | b'Q' | 3 => Some(Command::Quit),
            26 => Some(Command::Suspend),
            b'k' => Some(Command::Move(Step::Up)),
            b'j' | b'\r' | b'\n' => Some(Command::Move(Step::Down)),
            b'b' => Some(Command::Move(Step::PageUp)),
            b' ' | b'f' => Some(Command::Move(Step::PageDown)),
            b'g' => Some(Command::Move(Step::First)),
            b'G' => Some(Command::Move(Step::Last)),
            0x1b => {
                self.open = Some(Vec::new());
                None
            }
            _ => None,
        }
    }
}

/// What follows an escape.
fn sequence(bytes: &[u8]) -> Option<Command> {
    let step = match bytes {
        b"[A" | b"OA" => Step::Up,
        b"[B" | b"OB" => Step::Down,
        b"[5~" => Step::PageUp,
        b"[6~" => Step::PageDown,
        b"[H" | b"OH" | b"[1~" | b"[7~" => Step::First,
        b"[F" | b"OF" | b"[4~" | b"[8~" => Step::Last,
        _ => return None,
    };
    Some(Command::Move(step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_understood_also_in_pieces() {
        let mut keys = Keys::default();
        assert_eq!(keys.read(b"\x1b[A\x1b[6~x"), [Command::Move(Step::Up), Command::Move(Step::PageDown)]);
        assert_eq!(keys.read(b"\x1b"), []);
        assert_eq!(keys.read(b"["), []);
        assert_eq!(keys.read(b"B"), [Command::Move(Step::Down)]);
        assert_eq!(keys.read(b"\x1bq"), [Command::Quit], "the escape key alone holds nothing up");
        assert_eq!(keys.read(b"\x1b[1;5\x03"), [Command::Quit]);
        assert_eq!(keys.read(b"\x1b[Cq"), [Command::Quit], "unknown keys are none");
        assert_eq!(keys.read(b"\x1a"), [Command::Suspend]);
        assert_eq!(keys.read(b"\x1b[99999999999q"), [Command::Quit], "no sequence goes on for ever");
    }
}
