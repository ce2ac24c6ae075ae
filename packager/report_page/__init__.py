"""report.json as one page that needs nothing but itself: report.html."""
