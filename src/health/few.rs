//! A list that mostly has one element and then needs no place of its own.

use std::slice;

/// Elements in a row: none or one in place, more on the heap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Few<T> {
    /// No element.
    #[default]
    None,
    /// The usual number.
    One(T),
    /// Any other number.
    Several(Box<Vec<T>>),
}

impl<T> Few<T> {
    /// The elements.
    pub(super) fn as_slice(&self) -> &[T] {
        match self {
            Few::None => &[],
            Few::One(one) => slice::from_ref(one),
            Few::Several(all) => all,
        }
    }

    /// The elements, to be changed.
    pub(super) fn as_mut_slice(&mut self) -> &mut [T] {
        match self {
            Few::None => &mut [],
            Few::One(one) => slice::from_mut(one),
            Few::Several(all) => all,
        }
    }

    /// Takes all elements out.
    pub(super) fn take(&mut self) -> Few<T> {
        std::mem::take(self)
    }

    /// Adds an element behind the others.
    pub fn push(&mut self, element: T) {
        match self {
            Few::None => *self = Few::One(element),
            Few::One(_) => {
                let mut all = self.take().into_vec();
                all.push(element);
                *self = all.into();
            }
            Few::Several(all) => all.push(element),
        }
    }

    /// Keeps the elements that pass.
    pub fn retain(&mut self, mut pass: impl FnMut(&mut T) -> bool) {
        match self {
            Few::None => (),
            Few::One(one) => {
                if !pass(one) {
                    *self = Few::None;
                }
            }
            Few::Several(all) => {
                all.retain_mut(pass);
                if all.len() < 2 {
                    *self = std::mem::take(&mut **all).into();
                }
            }
        }
    }

    /// The elements as a list.
    pub fn into_vec(self) -> Vec<T> {
        match self {
            Few::None => Vec::new(),
            Few::One(one) => vec![one],
            Few::Several(all) => *all,
        }
    }
}

impl<T: Ord> Few<T> {
    /// Puts an element in its place in the order, unless it is there.
    pub(super) fn insert_in_order(&mut self, element: T) {
        if let Err(place) = self.as_slice().binary_search(&element) {
            let mut all = self.take().into_vec();
            all.insert(place, element);
            *self = all.into();
        }
    }
}

impl<T> From<Vec<T>> for Few<T> {
    fn from(mut all: Vec<T>) -> Few<T> {
        match (all.pop(), all.is_empty()) {
            (None, _) => Few::None,
            (Some(one), true) => Few::One(one),
            (Some(last), false) => {
                all.push(last);
                Few::Several(Box::new(all))
            }
        }
    }
}

impl<T> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Few<T> {
        let mut elements = elements.into_iter();
        match (elements.next(), elements.next()) {
            (None, _) => Few::None,
            (Some(one), None) => Few::One(one),
            (Some(first), Some(second)) => [first, second].into_iter().chain(elements).collect::<Vec<T>>().into(),
        }
    }
}

impl<T> std::ops::Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.as_slice()
    }
}

impl<T> std::ops::DerefMut for Few<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.as_mut_slice()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_and_go_in_order() {
        let mut few: Few<u32> = Few::default();
        for (element, all) in [(5, &[5][..]), (5, &[5]), (3, &[3, 5]), (9, &[3, 5, 9]), (5, &[3, 5, 9])] {
            few.insert_in_order(element);
            assert_eq!(*few, *all);
        }
        few.retain(|element| *element == 5);
        assert!(matches!(few, Few::One(5)));
        few.retain(|_| true);
        few.push(4);
        assert_eq!(*few, [5, 4]);
        assert_eq!([5, 4].into_iter().collect::<Few<u32>>(), few.take());
        assert!(few.is_empty());
        few.push(1);
        few.retain(|_| false);
        assert!(matches!(few, Few::None));
        few = [1, 2, 3].into_iter().collect();
        few.retain(|element| *element > 1);
        assert_eq!(*few, [2, 3]);
        few.retain(|_| false);
        assert!(matches!(few, Few::None));
    }

    #[test]
    fn one_costs_no_more_than_the_list_itself() {
        assert_eq!(size_of::<Few<(bool, u64)>>(), size_of::<(bool, u64)>());
        assert_eq!(size_of::<Few<(usize, usize)>>(), size_of::<Vec<(usize, usize)>>());
    }
}
