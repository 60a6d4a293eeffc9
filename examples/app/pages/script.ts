// The script of the pages, as it is sent to browsers: shows without a reload that the session has ended, or that others have.

export const script = `
const list = document.getElementById('sessions')
const dialog = document.getElementById('signed-out')
let events

function listen() {
  let isFirst = true
  events = new EventSource('/events')
  events.addEventListener('ended', showSignedOut)
  events.addEventListener('changed', refresh)
  events.addEventListener('open', () => {
    // Events may have been missed while there was no connection.
    if (!isFirst) refresh()
    isFirst = false
    document.documentElement.dataset.events = 'open'
  })
  events.addEventListener('error', () => {
    // It connects again by itself, but not after an answer such as 503.
    if (events.readyState === EventSource.CLOSED) setTimeout(() => { listen(); refresh() }, 2000)
  })
}

function showSignedOut() {
  events.close()
  if (!dialog.open) dialog.showModal()
}

async function refresh() {
  const response = await fetch('/sessions').catch(() => undefined)
  // To the first page, as nobody is signed in.
  if (response?.redirected) return showSignedOut()
  if (!response?.ok || !list) return
  const focused = document.activeElement?.id
  list.innerHTML = await response.text()
  if (focused) document.getElementById(focused)?.focus()
}

// The dialog can't be dismissed: there is nothing to go back to.
dialog.addEventListener('cancel', (event) => event.preventDefault())
// The next page says what has happened.
document.addEventListener('submit', () => events.close())
listen()

// Hides what is shown for a limited time.
const { expiresIn } = document.querySelector('[data-expires-in]')?.dataset ?? {}
if (expiresIn) setTimeout(() => location.reload(), Number(expiresIn))
`
