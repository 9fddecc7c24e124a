//! The routes of a virtual host by the paths that they take: a request looks at those that its path may take, and at no others.
//!
//! Sorted texts in place of a trie: they need no text of their own, and sixteen bytes for each route.

use std::{cmp::Ordering, sync::Arc};

use super::{PathMatch, PathTest, Route};

/// Routes by what their paths test. Routes are named by their numbers, in the order of the virtual host.
#[derive(Debug, Clone, Default)]
pub(super) struct Paths {
    /// Of whole paths, by letters as written, and by letters in any case.
    whole: [Texts; 2],
    /// The same, of what paths begin with.
    begin: [Texts; 2],
    /// Those that test paths otherwise, so that any may pass.
    others: Box<[u32]>,
}

/// Routes in the order of the texts of their tests, those with the same text in their own order.
#[derive(Debug, Clone, Default)]
struct Texts {
    /// Letters count alike whatever their case.
    folded: bool,
    numbers: Box<[u32]>,
    /// Each text once.
    texts: Box<[Text]>,
}

/// One text.
#[derive(Debug, Clone, Copy)]
struct Text {
    /// Where its routes begin in [`Texts::numbers`]; they end where those of the next text begin.
    from: u32,
    /// The longest other text that this one begins with.
    within: Option<u32>,
}

impl Paths {
    pub(super) fn new(routes: &[Arc<Route>]) -> Self {
        let numbers = |wanted: &dyn Fn(&PathMatch) -> bool| -> Vec<u32> {
            (0..).zip(routes).filter(|(_, route)| wanted(&route.when.path)).map(|(number, _)| number).collect()
        };
        let texts = |folded: bool, wanted: &dyn Fn(&PathTest) -> bool| {
            Texts::new(routes, folded, numbers(&|path| path.case_sensitive != folded && wanted(&path.test)))
        };
        let whole = |folded| texts(folded, &|test| matches!(test, PathTest::Exact(_)));
        let begin = |folded| texts(folded, &|test| matches!(test, PathTest::Prefix(_) | PathTest::PathSeparatedPrefix(_)));
        let others = numbers(&|path| matches!(path.test, PathTest::Regex(_) | PathTest::Text(_)));
        Self { whole: [whole(false), whole(true)], begin: [begin(false), begin(true)], others: others.into() }
    }

    /// The first of the routes that passes `test`, of those that a request for `path` may take.
    pub(super) fn first<'a>(
        &self,
        routes: &'a [Arc<Route>],
        path: &str,
        test: impl Fn(&Route) -> bool,
    ) -> Option<&'a Arc<Route>> {
        let mut first: Option<(u32, &Arc<Route>)> = None;
        let mut look = |numbers: &[u32]| {
            for number in numbers {
                if first.is_some_and(|(known, _)| known <= *number) {
                    return;
                }
                if let Some(route) = routes.get(*number as usize).filter(|route| test(route)) {
                    first = Some((*number, route));
                    return;
                }
            }
        };
        // Control planes have the longest first, so that those that follow mostly are not looked at.
        for texts in &self.whole {
            look(texts.of_whole(routes, path));
        }
        for texts in &self.begin {
            texts.of_beginnings(routes, path, &mut look);
        }
        look(&self.others);
        first.map(|(_, route)| route)
    }
}

impl Texts {
    fn new(routes: &[Arc<Route>], folded: bool, numbers: Vec<u32>) -> Self {
        // A route is looked for once, and not for each time that it is compared.
        let mut sorted: Vec<(&str, u32)> = numbers.into_iter().map(|number| (text(routes, number), number)).collect();
        sorted.sort_unstable_by(|(one, first), (other, second)| compare(folded, one, other).then(first.cmp(second)));
        let mut texts: Vec<Text> = Vec::new();
        // Those that what comes next may begin with, each beginning with the one before it.
        let mut open: Vec<u32> = Vec::new();
        let mut before: Option<&str> = None;
        for (from, (own, _)) in (0..).zip(&sorted) {
            let own: &str = own;
            if before.is_some_and(|before| compare(folded, before, own) == Ordering::Equal) {
                continue;
            }
            before = Some(own);
            let begins_with = |at: &u32| {
                let other = texts.get(*at as usize).and_then(|text| sorted.get(text.from as usize));
                other.is_some_and(|(other, _)| common(folded, other, own) == other.len())
            };
            while open.last().is_some_and(|at| !begins_with(at)) {
                open.pop();
            }
            let within = open.last().copied();
            open.extend(u32::try_from(texts.len()));
            texts.push(Text { from, within });
        }
        Self { folded, numbers: sorted.into_iter().map(|(_, number)| number).collect(), texts: texts.into() }
    }

    /// The routes whose text is this one.
    fn of_whole(&self, routes: &[Arc<Route>], path: &str) -> &[u32] {
        let found = self.not_after(routes, path).filter(|at| {
            let text = self.text(routes, *at);
            text.len() == path.len() && compare(self.folded, text, path) == Ordering::Equal
        });
        found.map_or(&[], |at| self.numbers_of(at))
    }

    /// The routes with whose texts `path` begins, those of the longest first.
    fn of_beginnings(&self, routes: &[Arc<Route>], path: &str, look: &mut impl FnMut(&[u32])) {
        // Whatever `path` begins with, this one begins with, too: it lies between the two.
        let Some(nearest) = self.not_after(routes, path) else { return };
        let same = common(self.folded, self.text(routes, nearest), path);
        let mut next = Some(nearest);
        while let Some(at) = next {
            if self.text(routes, at).len() <= same {
                look(self.numbers_of(at));
            }
            next = self.texts.get(at).and_then(|text| text.within).map(|within| within as usize);
        }
    }

    /// The last text that does not come after `path`.
    fn not_after(&self, routes: &[Arc<Route>], path: &str) -> Option<usize> {
        let of = |found: &Text| self.numbers.get(found.from as usize).map_or("", |number| text(routes, *number));
        self.texts.partition_point(|found| compare(self.folded, of(found), path) != Ordering::Greater).checked_sub(1)
    }

    fn text<'a>(&self, routes: &'a [Arc<Route>], at: usize) -> &'a str {
        self.numbers_of(at).first().map_or("", |number| text(routes, *number))
    }

    fn numbers_of(&self, at: usize) -> &[u32] {
        let from = self.texts.get(at).map_or(self.numbers.len(), |text| text.from as usize);
        let to = self.texts.get(at + 1).map_or(self.numbers.len(), |text| text.from as usize);
        self.numbers.get(from..to).unwrap_or_default()
    }
}

/// What the path of a route is, or begins with.
fn text(routes: &[Arc<Route>], number: u32) -> &str {
    match routes.get(number as usize).map(|route| &route.when.path.test) {
        Some(PathTest::Exact(text) | PathTest::Prefix(text) | PathTest::PathSeparatedPrefix(text)) => text,
        Some(PathTest::Regex(_) | PathTest::Text(_)) | None => "",
    }
}

impl PathMatch {
    /// Whether a route of this path stands in [`Paths`] where one of the other does.
    pub(super) fn is_sorted_as(&self, other: &Self) -> bool {
        use PathTest::{Exact, PathSeparatedPrefix, Prefix, Regex, Text};
        let same_text = match (&self.test, &other.test) {
            (Exact(one), Exact(other)) => one == other,
            (Prefix(one) | PathSeparatedPrefix(one), Prefix(other) | PathSeparatedPrefix(other)) => one == other,
            (Regex(_) | Text(_), Regex(_) | Text(_)) => return true,
            _ => false,
        };
        same_text && self.case_sensitive == other.case_sensitive
    }
}

fn compare(folded: bool, one: &str, other: &str) -> Ordering {
    if folded {
        let [one, other] = [one, other].map(|text| text.bytes().map(|byte| byte.to_ascii_lowercase()));
        return one.cmp(other);
    }
    one.as_bytes().cmp(other.as_bytes())
}

/// How many bytes both begin with.
fn common(folded: bool, one: &str, other: &str) -> usize {
    let same = |(one, other): &(u8, u8)| if folded { one.eq_ignore_ascii_case(other) } else { one == other };
    one.bytes().zip(other.bytes()).take_while(same).count()
}
