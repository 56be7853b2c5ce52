//! One line of the result.

/// A measured figure, its limit in the same run, and the goal.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// The figure, with its unit.
    pub measured: String,
    /// The limit measured in the same run, with its unit; empty where the goal is absolute.
    pub limit: String,
    /// What the goal is about.
    pub score: f64,
    /// What the score should be.
    pub goal: Goal,
}

/// A bound on a score, with the score's unit.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// At least this.
    AtLeast(f64, &'static str),
    /// Less than this.
    Under(f64, &'static str),
}

impl Row {
    /// What a server used of the CPU for an operation: `seconds` per 1,000, which should be less than `goal`.
    pub fn cpu(name: &str, seconds: f64, goal: f64) -> Self {
        Self {
            name: format!("{name}: CPU"),
            measured: format!("{seconds:.3} s per 1,000"),
            limit: String::new(),
            score: seconds,
            goal: Goal::Under(goal, " s"),
        }
    }
}

impl Goal {
    fn met(self, score: f64) -> bool {
        match self {
            Self::AtLeast(bound, _) => score >= bound,
            Self::Under(bound, _) => score < bound,
        }
    }
}

/// The median of `values`; 0 when there are none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// All rows as a Markdown table.
pub fn table(rows: &[Row]) -> String {
    let mut cells = vec![["row", "measured", "limit in the same run", "score", "goal", ""].map(str::to_owned)];
    for row in rows {
        let (sign, bound, unit) = match row.goal {
            Goal::AtLeast(bound, unit) => ("≥", bound, unit),
            Goal::Under(bound, unit) => ("<", bound, unit),
        };
        cells.push([
            row.name.clone(),
            row.measured.clone(),
            row.limit.clone(),
            format!("{:.*}{unit}", if row.score < 0.1 { 3 } else { 2 }, row.score),
            format!("{sign} {bound}{unit}"),
            if row.goal.met(row.score) { "met" } else { "missed" }.to_owned(),
        ]);
    }
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let mut text = String::new();
    for (number, row) in cells.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(&format!("| {cell:width$} "));
        }
        text.push_str("|\n");
        if number == 0 {
            for width in &widths {
                text.push_str(&format!("|{}", "-".repeat(width + 2)));
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_whether_its_goal_is_met() {
        let row = |score, goal| Row { name: "x".into(), measured: "1/s".into(), limit: String::new(), score, goal };
        let text = table(&[row(0.5, Goal::AtLeast(0.9, "")), row(3.0, Goal::Under(5.0, " ms"))]);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[2].contains("≥ 0.9") && lines[2].contains("missed"), "{text}");
        assert!(lines[3].contains("3.00 ms") && lines[3].contains("met"), "{text}");
    }

    #[test]
    fn the_median_of_nothing_is_zero() {
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
    }
}
