//! What a cron job's schedule may look like.

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const DESCRIPTORS: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// What is wrong with a schedule, in the words of the parser upstream uses.
pub(super) fn check(schedule: &str) -> Result<(), String> {
    if schedule.is_empty() {
        return Err("empty spec string".to_owned());
    }
    if schedule.starts_with('@') {
        if DESCRIPTORS.contains(&schedule) {
            return Ok(());
        }
        return match schedule.strip_prefix("@every ") {
            Some(duration) if is_duration(duration) => Ok(()),
            Some(_) => Err(format!("failed to parse duration {schedule}")),
            None => Err(format!("unrecognized descriptor: {schedule}")),
        };
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = fields[..] else {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    };
    field(minute, 0, 59, &[], 0)?;
    field(hour, 0, 23, &[], 0)?;
    field(day, 1, 31, &[], 0)?;
    field(month, 1, 12, &MONTHS, 1)?;
    field(weekday, 0, 6, &DAYS, 0)
}

/// One field: expressions joined with commas. `names` stand for numbers from `first` on.
fn field(text: &str, min: u32, max: u32, names: &[&str], first: u32) -> Result<(), String> {
    text.split(',').filter(|part| !part.is_empty()).try_for_each(|part| range(part, min, max, names, first))
}

fn range(text: &str, min: u32, max: u32, names: &[&str], first: u32) -> Result<(), String> {
    let number = |text: &str| -> Result<u32, String> {
        if let Some(at) = names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
            return Ok(first + u32::try_from(at).unwrap_or_default());
        }
        text.parse::<u32>()
            .map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))
    };
    let mut halves = text.split('/');
    let (bounds, step) = (halves.next().unwrap_or_default(), halves.next());
    if halves.next().is_some() {
        return Err(format!("too many slashes: {text}"));
    }
    let mut ends = bounds.split('-');
    let (low, high) = (ends.next().unwrap_or_default(), ends.next());
    if ends.next().is_some() {
        return Err(format!("too many hyphens: {text}"));
    }
    let (start, mut end) = match (low, high) {
        ("*" | "?", None) => (min, max),
        (low, None) => (number(low)?, number(low)?),
        (low, Some(high)) => (number(low)?, number(high)?),
    };
    if let Some(step) = step {
        if number(step)? == 0 {
            return Err(format!("step of range should be a positive number: {text}"));
        }
        if high.is_none() {
            end = max;
        }
    }
    if start < min {
        return Err(format!("beginning of range ({start}) below minimum ({min}): {text}"));
    }
    if end > max {
        return Err(format!("end of range ({end}) above maximum ({max}): {text}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    Ok(())
}

/// `1h30m`, as Go writes durations.
fn is_duration(text: &str) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let after = &rest[digits..];
        let Some(unit) = ["ns", "us", "ms", "s", "m", "h"].into_iter().find(|unit| after.starts_with(unit)) else {
            return false;
        };
        if digits == 0 {
            return false;
        }
        rest = &after[unit.len()..];
    }
    !text.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_have_five_fields_or_a_name() {
        for good in ["*/5 * * * *", "0 0 1-15/2 jan,Feb mon-fri", "@hourly", "@every 1h30m", "0 ? * * 0"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
            ("@often", "unrecognized descriptor: @often"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
        ] {
            assert_eq!(check(bad), Err(why.to_owned()));
        }
    }

    #[test]
    fn odd_texts_are_refused_and_no_more() {
        for odd in
            ["@every ", "@", "- - - - -", "/ * * * *", "\u{e4} * * * *", "*/0 * * * *", "5-1 * * * *", "1--2 * * * *"]
        {
            assert!(check(odd).is_err(), "{odd}");
        }
    }
}
