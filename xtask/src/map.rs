//! The crate map of ARCHITECTURE.md is true.

use std::collections::BTreeSet;

use crate::house::House;

/// Every member of the workspace has a row in the table under `## Crate map`, and every row a member.
pub(crate) fn crate_map(house: &House) -> Vec<String> {
    let Some(architecture) = house.text("ARCHITECTURE.md") else {
        return vec!["ARCHITECTURE.md is missing (or git does not track it)".to_owned()];
    };
    let rows = rows(architecture);
    let members: BTreeSet<String> = house
        .members()
        .map(|member| member.folder.strip_prefix("crates/").unwrap_or(&member.folder).to_owned())
        .collect();
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    for row in &rows {
        if !members.contains(row) {
            faults.push(format!("ARCHITECTURE.md maps `{row}`, which is no member; remove the row"));
        }
        if !seen.insert(row) {
            faults.push(format!("ARCHITECTURE.md maps `{row}` twice"));
        }
    }
    for member in members.iter().filter(|member| !seen.contains(member)) {
        faults.push(format!(
            "the crate map of ARCHITECTURE.md lacks `{member}`; add a row `| \\`{member}/\\` | ... |`"
        ));
    }
    faults
}

/// First cells of the table, without back-ticks, `crates/` and the last slash.
fn rows(architecture: &str) -> Vec<String> {
    let section = architecture.split("\n## ").find(|section| section.to_lowercase().starts_with("crate map"));
    let lines = section.unwrap_or_default().lines();
    let cells = lines.filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(cell, _)| cell));
    cells.map(|cell| cell.trim_start_matches("crates/").trim_end_matches('/').to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crate_map_names_every_member() {
        assert_eq!(crate_map(&House::load().expect("cargo and git answer")), Vec::<String>::new());
    }

    #[test]
    fn a_missing_row_and_a_row_too_many_are_found() {
        let map = "# A\n\n## Crate map\n\n| crate | x |\n|---|---|\n| `a/` | . |\n| `gone` | . |\n| `a` | . |\n\n## B\n\n| `b` | . |\n";
        let house = House::of_packages(
            &[("drawbridge-a", "MIT", None, &[]), ("drawbridge-b", "MIT", None, &[])],
            &[("ARCHITECTURE.md", map)],
        );
        let faults = crate_map(&house);
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(
            faults[0].contains("`gone`") && faults[1].contains("twice") && faults[2].contains("lacks `b`")
        );
    }
}
