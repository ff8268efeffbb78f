//! Pure prediction and explanation of every measurement a right guest must show.
