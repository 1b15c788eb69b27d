"""Broker sessions end, and a broker account belongs to one user"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("broker_accounts", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    op.create_unique_constraint(
        op.f("uq_broker_accounts_broker_broker_user_id"), "broker_accounts", ["broker", "broker_user_id"]
    )


def downgrade() -> None:
    op.drop_constraint(op.f("uq_broker_accounts_broker_broker_user_id"), "broker_accounts", type_="unique")
    op.drop_column("broker_accounts", "expires_at")
