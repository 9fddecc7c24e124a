//! Times, in UTC, as a format says: what `strftime` has of them, and parts of a second.

use std::fmt::Write as _;
use std::time::Duration;

const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
const MONTHS: [&str; 12] =
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];

/// How a time is written. The default is that of Envoy: `2024-02-29T12:00:00.000Z`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeFormat(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Year,
    ShortYear,
    Month,
    MonthName {
        short: bool,
    },
    Day {
        blank: bool,
    },
    DayOfYear,
    Weekday {
        short: bool,
    },
    Hour,
    Hour12,
    HalfOfDay,
    Minute,
    Second,
    /// So many digits of the second's fraction.
    Fraction(u32),
    /// Seconds since 1970.
    Epoch,
}

impl Default for TimeFormat {
    fn default() -> Self {
        Self(
            date('-')
                .into_iter()
                .chain([literal("T")])
                .chain(clock())
                .chain([literal("."), Part::Fraction(3), literal("Z")])
                .collect(),
        )
    }
}

fn literal(text: &str) -> Part {
    Part::Literal(text.to_owned())
}

fn date(between: char) -> [Part; 5] {
    let between = || Part::Literal(between.to_string());
    [Part::Year, between(), Part::Month, between(), Part::Day { blank: false }]
}

fn clock() -> [Part; 5] {
    [Part::Hour, literal(":"), Part::Minute, literal(":"), Part::Second]
}

impl TimeFormat {
    /// Reads a format.
    ///
    /// # Errors
    /// What of it is not understood.
    pub fn parse(format: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = format;
        while let Some((before, after)) = rest.split_once('%') {
            if !before.is_empty() {
                parts.push(literal(before));
            }
            let mut letters = after.chars();
            let unknown = |of: &str| format!("%{of} is not implemented");
            match letters.next() {
                Some(digit @ '1'..='9') => match letters.next() {
                    Some('f') => parts.push(Part::Fraction(digit.to_digit(10).unwrap_or(9))),
                    _ => return Err(unknown(&digit.to_string())),
                },
                // The second with so many digits of its fraction.
                Some('E') => match (letters.next().and_then(|digit| digit.to_digit(10)), letters.next()) {
                    (Some(digits @ 1..=9), Some('S')) => parts.extend([Part::Second, literal("."), Part::Fraction(digits)]),
                    _ => return Err(unknown("E")),
                },
                Some(letter) => parts.extend(Self::letter(letter).ok_or_else(|| unknown(&letter.to_string()))?),
                None => return Err("it ends with a percent sign".into()),
            }
            rest = letters.as_str();
        }
        if !rest.is_empty() {
            parts.push(literal(rest));
        }
        Ok(Self(parts))
    }

    fn letter(letter: char) -> Option<Vec<Part>> {
        Some(match letter {
            'Y' => vec![Part::Year],
            'y' => vec![Part::ShortYear],
            'm' => vec![Part::Month],
            'B' => vec![Part::MonthName { short: false }],
            'b' | 'h' => vec![Part::MonthName { short: true }],
            'd' => vec![Part::Day { blank: false }],
            'e' => vec![Part::Day { blank: true }],
            'j' => vec![Part::DayOfYear],
            'A' => vec![Part::Weekday { short: false }],
            'a' => vec![Part::Weekday { short: true }],
            'H' => vec![Part::Hour],
            'I' => vec![Part::Hour12],
            'p' => vec![Part::HalfOfDay],
            'M' => vec![Part::Minute],
            'S' => vec![Part::Second],
            'f' => vec![Part::Fraction(9)],
            's' => vec![Part::Epoch],
            'F' => date('-').into(),
            'T' => clock().into(),
            'R' => vec![Part::Hour, literal(":"), Part::Minute],
            'D' => vec![Part::Month, literal("/"), Part::Day { blank: false }, literal("/"), Part::ShortYear],
            'Z' => vec![literal("UTC")],
            'z' => vec![literal("+0000")],
            '%' => vec![literal("%")],
            _ => return None,
        })
    }

    /// The time so long after the beginning of 1970.
    #[must_use]
    pub fn write(&self, since: Duration) -> String {
        let (seconds, nanos) = (since.as_secs(), since.subsec_nanos());
        let (days, of_day) = (seconds / 86_400, seconds % 86_400);
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        let civil = Civil::of(days);
        let mut text = String::with_capacity(32);
        let named = |name: &str, short: bool| -> String { name.chars().take(if short { 3 } else { name.len() }).collect() };
        for part in &self.0 {
            // A string takes whatever is written.
            let _ = match part {
                Part::Literal(literal) => text.write_str(literal),
                Part::Year => write!(text, "{:04}", civil.year),
                Part::ShortYear => write!(text, "{:02}", civil.year % 100),
                Part::Month => write!(text, "{:02}", civil.month),
                Part::MonthName { short } => {
                    let name =
                        usize::try_from(civil.month - 1).ok().and_then(|month| MONTHS.get(month)).copied().unwrap_or_default();
                    text.write_str(&named(name, *short))
                }
                Part::Day { blank: false } => write!(text, "{:02}", civil.day),
                Part::Day { blank: true } => write!(text, "{:2}", civil.day),
                Part::DayOfYear => write!(text, "{:03}", civil.day_of_year),
                Part::Weekday { short } => {
                    let name = usize::try_from(days % 7).ok().and_then(|day| DAYS.get(day)).copied().unwrap_or_default();
                    text.write_str(&named(name, *short))
                }
                Part::Hour => write!(text, "{hour:02}"),
                Part::Hour12 => write!(text, "{:02}", (hour + 11) % 12 + 1),
                Part::HalfOfDay => text.write_str(if hour < 12 { "AM" } else { "PM" }),
                Part::Minute => write!(text, "{minute:02}"),
                Part::Second => write!(text, "{second:02}"),
                Part::Fraction(digits) => {
                    let digits = (*digits).min(9);
                    let width = usize::try_from(digits).unwrap_or(9);
                    write!(text, "{:0width$}", nanos / 10_u32.pow(9 - digits))
                }
                Part::Epoch => write!(text, "{seconds}"),
            };
        }
        text
    }
}

/// A day of the Gregorian calendar.
struct Civil {
    year: u64,
    month: u64,
    day: u64,
    day_of_year: u64,
}

impl Civil {
    /// The day so many days after the first of 1970. Years are counted from March on, so that the day that some have more is the last of theirs.
    fn of(days: u64) -> Self {
        // From the first of March of the year 0, of which 400 years are 146,097 days.
        let days = days + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        // March begins with the 60th day, or with the 61st.
        let day_of_year = if month > 2 { of_year + 60 + u64::from(leap) } else { of_year - 305 };
        Self { year, month, day, day_of_year }
    }
}
