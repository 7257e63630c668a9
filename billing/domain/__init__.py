"""Pure decisions: money, pricing, periods, states, policy and errors. Only the standard library is imported here."""
