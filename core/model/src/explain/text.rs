//! An explanation as people read it.

use std::fmt;

use super::{Carriage, Explanation, Step, Verdict, Way};
use crate::reason::Reason;

/// How many ways are written out; of the others one line each.
const WRITTEN: usize = 4;
/// How many ways are named.
const NAMED: usize = 20;

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allowed => "ALLOWED",
            Self::Refused => "REFUSED",
            Self::Unknown => "CANNOT SAY",
        })
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} -> {}", self.from, self.to)?;
        writeln!(f, "{}", headline(self.verdict, self.reason, &self.ways))?;
        for assumed in &self.assumed {
            writeln!(f, "  assumed: {assumed}")?;
        }
        let mut number = 0;
        steps(f, &self.steps, &mut number)?;
        // Ways with the same end are told by one of them.
        let mut told: Vec<&Way> = Vec::new();
        for way in &self.ways {
            if !told.iter().any(|other| alike(other, way)) {
                told.push(way);
            }
        }
        let several = told.len() > 1;
        for way in told.iter().take(WRITTEN) {
            let same: Vec<&Way> = self.ways.iter().filter(|other| alike(other, way)).collect();
            if several {
                writeln!(f, "\nif it goes to {}: {}", names(&same), headline(way.verdict, way.reason, &[]))?;
            }
            let mut own = number;
            steps(f, &way.steps, &mut own)?;
            if !several && same.len() > 1 {
                writeln!(
                    f,
                    "     or, by chance, one of {} more with the same end: {}",
                    same.len() - 1,
                    names(same.get(1..).unwrap_or_default())
                )?;
            }
        }
        if told.len() > WRITTEN {
            writeln!(f, "\nand {} more outcomes (--json has them all)", told.len() - WRITTEN)?;
        }
        Ok(())
    }
}

fn alike(a: &Way, b: &Way) -> bool {
    (a.verdict, a.reason, &a.policy, a.carriage) == (b.verdict, b.reason, &b.policy, b.carriage)
}

fn names(ways: &[&Way]) -> String {
    let name =
        |way: &&Way| way.to.clone().or_else(|| way.dial.map(|dial| dial.to_string())).unwrap_or_else(|| "nowhere".to_owned());
    let more = if ways.len() > NAMED { format!(" and {} more", ways.len() - NAMED) } else { String::new() };
    format!("{}{more}", ways.iter().take(NAMED).map(name).collect::<Vec<_>>().join(", "))
}

fn headline(verdict: Verdict, reason: Option<Reason>, ways: &[Way]) -> String {
    let plain = verdict == Verdict::Allowed && ways.iter().any(|way| way.carriage == Carriage::PlainText);
    let plain = if plain { ", in plain text" } else { "" };
    match reason {
        Some(Reason::Ok) | None => format!("{verdict}{plain}"),
        Some(reason) => format!("{verdict} ({reason})"),
    }
}

fn steps(f: &mut fmt::Formatter<'_>, steps: &[Step], number: &mut usize) -> fmt::Result {
    for step in steps {
        *number += 1;
        let mark = match (&step.refusal, &step.doubt) {
            (Some(_), _) => 'x',
            (None, Some(_)) => '?',
            (None, None) => ' ',
        };
        writeln!(f, "{mark}{number:2}. {}", step.says)?;
        for ground in &step.because {
            writeln!(f, "       because {ground}")?;
        }
        if let Some(doubt) = &step.doubt {
            writeln!(f, "       not known: {doubt}")?;
        }
    }
    Ok(())
}
