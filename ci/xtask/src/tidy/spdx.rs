//! Licence expressions (SPDX specification 2.3, annex D), and the older `MIT/Apache-2.0` that Cargo still meets.

/// Whether `expression` can be met with licences that `allowed` accepts; `Err` holds what could not be read.
pub fn satisfied(expression: &str, allowed: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut reader = Reader { words: spaced.split_whitespace().collect(), at: 0, allowed };
    let verdict = reader.any()?;
    match reader.peek() {
        None => Ok(verdict),
        Some(word) => Err(format!("`{word}` in `{expression}`")),
    }
}

struct Reader<'a> {
    words: Vec<&'a str>,
    at: usize,
    allowed: &'a dyn Fn(&str) -> bool,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.at).copied()
    }

    fn accept(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(word);
        self.at += usize::from(found);
        found
    }

    /// `a OR b`
    fn any(&mut self) -> Result<bool, String> {
        let mut verdict = self.all()?;
        while self.accept("OR") {
            verdict |= self.all()?;
        }
        Ok(verdict)
    }

    /// `a AND b`
    fn all(&mut self) -> Result<bool, String> {
        let mut verdict = self.one()?;
        while self.accept("AND") {
            verdict &= self.one()?;
        }
        Ok(verdict)
    }

    /// `(a OR b)`, `a` or `a WITH exception`
    fn one(&mut self) -> Result<bool, String> {
        if self.accept("(") {
            let verdict = self.any()?;
            return if self.accept(")") { Ok(verdict) } else { Err("a bracket that is not closed".into()) };
        }
        let word = self.peek().filter(|w| !matches!(*w, "OR" | "AND" | "WITH" | ")"));
        let name =
            word.ok_or_else(|| format!("`{}` where a licence should stand", self.peek().unwrap_or("")))?;
        self.at += 1;
        if self.accept("WITH") {
            let exception = self.peek().ok_or("WITH without an exception")?;
            self.at += 1;
            return Ok((self.allowed)(&format!("{name} WITH {exception}")));
        }
        Ok((self.allowed)(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expression: &str) -> Result<bool, String> {
        satisfied(expression, &|l| ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].contains(&l))
    }

    #[test]
    fn one_choice_of_an_or_is_enough_and_every_part_of_an_and_is_needed() {
        for good in ["MIT", "GPL-3.0 OR MIT", "GPL-3.0/MIT", "MIT AND ISC", "GPL-3.0 OR (MIT AND (ISC OR X))"]
        {
            assert_eq!(check(good), Ok(true), "{good}");
        }
        for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND GPL-3.0", "Apache-2.0", "mit"] {
            assert_eq!(check(bad), Ok(false), "{bad}");
        }
    }

    #[test]
    fn and_binds_tighter_than_or() {
        assert_eq!(check("MIT OR GPL-3.0 AND GPL-2.0"), Ok(true));
        assert_eq!(check("GPL-3.0 AND GPL-2.0 OR MIT"), Ok(true));
    }

    #[test]
    fn an_exception_is_part_of_the_name() {
        assert_eq!(check("Apache-2.0 WITH LLVM-exception"), Ok(true));
        assert_eq!(check("MIT WITH LLVM-exception"), Ok(false));
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for bad in ["", "OR MIT", "MIT OR", "(MIT", "MIT)", "MIT ISC", "MIT WITH"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
